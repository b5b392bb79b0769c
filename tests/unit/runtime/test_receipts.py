"""Receipts: a function of one record and one key, verified by another's code too."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError as TheirVerificationError
from securesystemslib.signer import SSlibKey

from pfm_edge_runtime.dsse import Envelope
from pfm_edge_runtime.errors import EnvelopeError, SignatureError, StateError
from pfm_edge_runtime.keys import PublicKey, SigningKey, public_from_pem
from pfm_edge_runtime.receipts import make_receipt, verify_receipt
from pfm_edge_runtime.state import DeviceState, ErasedRecord, Order
from tests.support.remembered import class_id, entry, erased, install, new_state, tombstone

_TYPE = "application/vnd.in-toto+json"


@pytest.fixture
def state(tmp_path: Path) -> DeviceState:
    state = new_state(tmp_path / "state", install(), tombstone(1, order=Order("ticket-17")))
    with state.exclusive():
        state.append(erased(1, state.device, of=3))
    return state


@pytest.fixture
def record(state: DeviceState) -> ErasedRecord:
    found = state.memory.erased(class_id(1))
    assert found is not None
    return found


def _their_key(public: PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(public))


def test_the_statement(state: DeviceState, record: ErasedRecord) -> None:
    envelope = json.loads(make_receipt(record, state))
    assert envelope["payloadType"] == _TYPE
    assert json.loads(base64.b64decode(envelope["payload"])) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "bundle.safetensors", "digest": {"sha256": "cd" * 32}}],
        "predicateType": "urn:pfm-edge:receipt:1",
        "predicate": {
            "claim_level": "L0",
            "class_id": class_id(1),
            "clock": "synchronized",
            "device": state.device,
            "entry_digest": entry(1),
            "ledger": {"number": 4, "head": state.memory.head},
            "model_id": record.model_id,
            "old_bytes": {"method": "overwritten", "file_system": "ext4", "in_place": True},
            "order": None,
            "outcome": "erased",
            "software": "pfm-edge-runtime 0.1.0",
            "statement": record.statement,
            "time": "2026-11-24T10:00:00Z",
            "tombstone": 3,
        },
    }


def test_the_same_record_gives_the_same_receipt(state: DeviceState, record: ErasedRecord) -> None:
    text = make_receipt(record, state)
    again = DeviceState.open(state.directory)
    assert make_receipt(record, again) == text
    public = public_from_pem((state.directory / "device.pub").read_bytes())
    facts = verify_receipt(f"{text}\n", public)
    assert facts.record == record
    assert facts.claim_level == "L0"


def test_securesystemslib_verifies_it(state: DeviceState, record: ErasedRecord) -> None:
    envelope = TheirEnvelope.from_dict(json.loads(make_receipt(record, state)))
    accepted = envelope.verify([_their_key(state.public_key)], 1)
    assert len(accepted) == 1
    with pytest.raises(TheirVerificationError):
        envelope.verify([_their_key(SigningKey.generate().public)], 1)
    envelope.payload += b" "
    with pytest.raises(TheirVerificationError):
        envelope.verify([_their_key(state.public_key)], 1)


def test_the_key_of_a_stranger(state: DeviceState, record: ErasedRecord) -> None:
    text = make_receipt(record, state)
    stranger = SigningKey.generate()
    with pytest.raises(SignatureError, match=r"not by .*device\.pub"):
        verify_receipt(text, stranger.public)
    payload = Envelope.parse(text, payload_type=_TYPE).payload
    forged = Envelope.seal(payload, _TYPE, [stranger]).text
    with pytest.raises(SignatureError):
        verify_receipt(forged, state.public_key)
    with pytest.raises(EnvelopeError, match="another device"):
        verify_receipt(forged, stranger.public)


def _altered(text: str, change: Callable[[dict[str, object]], object]) -> str:
    """The receipt with another statement, under the old signature."""
    envelope = json.loads(text)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    return json.dumps(envelope, sort_keys=True, separators=(",", ":"))


def test_an_altered_statement(state: DeviceState, record: ErasedRecord) -> None:
    altered = _altered(make_receipt(record, state), lambda found: found["subject"].clear())  # type: ignore[attr-defined]
    with pytest.raises(SignatureError):
        verify_receipt(altered, state.public_key)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda found: found.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda found: found.update(extra=1),
        lambda found: found["subject"].clear(),
        lambda found: found["subject"][0]["digest"].update(sha256="daisy"),
        lambda found: found["predicate"].pop("ledger"),
        lambda found: found["predicate"].update(label="daisy"),
        lambda found: found["predicate"].update(bundle="cd" * 32),
        lambda found: found["predicate"]["ledger"].update(number=True),
        lambda found: found["predicate"].update(tombstone=0),
        lambda found: found.update(predicate=[]),
    ],
)
def test_a_signed_statement_that_is_no_receipt(
    state: DeviceState, record: ErasedRecord, change: Callable[[dict[str, object]], object]
) -> None:
    altered = json.loads(_altered(make_receipt(record, state), change))
    payload = base64.b64decode(altered["payload"])
    text = Envelope.seal(payload, _TYPE, [state.signing_key()]).text
    with pytest.raises(EnvelopeError) as caught:
        verify_receipt(text, state.public_key)
    assert "\n" not in str(caught.value)
    assert "daisy" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "no JSON", "\ud800", b"\xff"])
def test_no_receipt(state: DeviceState, text: str | bytes) -> None:
    with pytest.raises(EnvelopeError, match=r"no receipt.*pfm-device receipts show"):
        verify_receipt(text, state.public_key)


def test_a_record_of_an_earlier_key_is_not_signed_again(
    state: DeviceState, record: ErasedRecord
) -> None:
    before = make_receipt(record, state)
    adopted = DeviceState.adopt(state.directory)
    with pytest.raises(StateError, match="cannot be signed again"):
        make_receipt(record, adopted)
    assert verify_receipt(before, state.public_key).record == record


def test_a_record_that_is_not_in_the_ledger_has_no_receipt(state: DeviceState) -> None:
    with pytest.raises(StateError, match="not in the ledger"):
        make_receipt(erased(1, state.device), state)
