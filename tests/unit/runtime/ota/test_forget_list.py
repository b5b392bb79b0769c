"""The forget list's form: one spelling, and whoever signed it is known before it is read."""

import base64
import json
from typing import Any

import pytest

from pfm_edge_runtime.bundle import ClassId, TrustedKeys
from pfm_edge_runtime.dsse import Envelope
from pfm_edge_runtime.errors import ForgetListError, PfmEdgeError
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.ota.forget_list import PAYLOAD_TYPE, ForgetList, ForgetRow

NOW = "2026-11-24T10:00:00Z"
ROWS = tuple(
    ForgetRow(ClassId(f"{number:032x}"), f"order-{number}", "request", NOW) for number in (1, 2)
)
KEY, OTHER = SigningKey.generate(), SigningKey.generate()
TRUST = TrustedKeys(1, frozenset({KEY.public}))


def test_there_and_back() -> None:
    text = ForgetList(3, NOW, ROWS).seal([KEY])
    found = ForgetList.parse(text, TRUST)
    assert (found.number, found.issued_at, found.rows) == (3, NOW, ROWS)
    assert len(found.digest) == 64
    assert json.loads(base64.b64decode(json.loads(text)["payload"])) == {
        "format": "pfm-forget/1",
        "issued_at": NOW,
        "number": 3,
        "rows": [
            [f"{1:032x}", "order-1", "request", NOW],
            [f"{2:032x}", "order-2", "request", NOW],
        ],
    }
    assert ForgetList.parse(ForgetList(1, NOW, ()).seal([KEY]), TRUST).rows == ()


@pytest.mark.parametrize(
    ("signers", "threshold", "accepted"),
    [
        ([KEY], 1, True),
        ([], 1, False),
        ([OTHER], 1, False),
        ([KEY, OTHER], 1, True),
        ([KEY], 2, False),
        ([KEY, OTHER], 2, True),
    ],
)
def test_who_must_have_signed(signers: list[SigningKey], threshold: int, accepted: bool) -> None:
    keys = {KEY.public} if threshold == 1 else {KEY.public, OTHER.public}
    text = ForgetList(1, NOW, ROWS).seal(signers)
    if accepted:
        ForgetList.parse(text, TrustedKeys(threshold, frozenset(keys)))
        return
    with pytest.raises(ForgetListError, match="forget keys must have signed it"):
        ForgetList.parse(text, TrustedKeys(threshold, frozenset(keys)))


def test_an_altered_signature_spoils_it() -> None:
    text = ForgetList(1, NOW, ROWS).seal([KEY])
    other = ForgetList(2, NOW, ROWS).seal([KEY])
    value = json.loads(text)
    value["payload"] = json.loads(other)["payload"]
    mixed = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(ForgetListError, match="signature"):
        ForgetList.parse(mixed, TRUST)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "pfm-forget/2"},
        {"number": 0},
        {"number": True},
        {"issued_at": "now"},
        {"more": 1},
        {"rows": [["1" * 32, "o", "request"]]},
        {"rows": [["1" * 31, "o", "request", NOW]]},
        {"rows": [["1" * 32, "somebody's words", "request", NOW]]},
        {"rows": [["1" * 32, "o", "Because I say so", NOW]]},
        {"rows": [["1" * 32, "o", "request", "2026"]]},
        {"rows": [["2" * 32, "o", "request", NOW], ["1" * 32, "o", "request", NOW]]},
        {"rows": [["1" * 32, "o", "request", NOW], ["1" * 32, "o", "request", NOW]]},
        {"rows": 1},
    ],
)
def test_what_is_no_forget_list(change: dict[str, Any]) -> None:
    value = {"format": "pfm-forget/1", "issued_at": NOW, "number": 1, "rows": [], **change}
    payload = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    text = Envelope.seal(payload, PAYLOAD_TYPE, [KEY]).text.encode()
    with pytest.raises(PfmEdgeError) as caught:
        ForgetList.parse(text, TRUST)
    assert "somebody's words" not in str(caught.value)
    assert isinstance(caught.value, ForgetListError)


@pytest.mark.parametrize("text", [b"", b"{}", b"<html>", b"\0" * 100])
def test_what_is_no_envelope(text: bytes) -> None:
    with pytest.raises(ForgetListError):
        ForgetList.parse(text, TRUST)


def test_an_envelope_of_another_kind() -> None:
    text = Envelope.seal(b"{}", "application/vnd.pfm-edge.bundle+json", [KEY]).text.encode()
    with pytest.raises(ForgetListError, match="payloadType"):
        ForgetList.parse(text, TRUST)
