"""Issuing a bundle: what is drawn, sorted and normalised, and what is refused."""

import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from pfm_edge_runtime.bundle import (
    Bundle,
    ClassId,
    Entry,
)
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import (
    BundleError,
    BundleFormatError,
)
from pfm_edge_runtime.manifest import ModelId
from tests.support.tiny_package import INPUTS, ISSUED_AT, LABELS, MODEL_ID, build_bundle, entries

_MANIFEST = b"{}"


def _bundle(labels: tuple[str, ...] = LABELS) -> Bundle:
    return build_bundle(_MANIFEST, labels)


def _build(issued: list[Entry], **others: object) -> Bundle:
    arguments = {
        "model_id": MODEL_ID,
        "manifest_digests": [digest_of(_MANIFEST)],
        "inputs": INPUTS,
        "entries": issued,
        "issued_at": ISSUED_AT,
    }
    return Bundle.build(**{**arguments, **others})  # type: ignore[arg-type]


def test_order_of_entries_and_manifests_changes_no_byte() -> None:
    shuffled = entries()
    random.Random(3).shuffle(shuffled)
    digests = [digest_of(b"a"), digest_of(b"b"), digest_of(b"a")]
    one = _build(entries(), manifest_digests=digests)
    two = _build(shuffled, manifest_digests=digests[::-1])
    assert one.to_bytes() == two.to_bytes()


def test_salts_are_drawn_once_and_kept() -> None:
    unsalted = [replace(entry, salt=None) for entry in entries()]
    first, second = _build(unsalted), _build(unsalted)
    salts = [entry.salt for entry in first.entries]
    assert len({*salts, *(entry.salt for entry in second.entries)}) == 2 * len(salts)
    again = _build(list(first.entries), sequence=2)
    assert [entry.salt for entry in again.entries] == salts
    assert again.statement.entry_digests == first.statement.entry_digests


def test_time_is_stored_in_utc_to_the_second() -> None:
    moment = datetime(2026, 1, 2, 5, 4, 5, 999, tzinfo=timezone(timedelta(hours=2)))
    assert _build(entries(), issued_at=moment).statement.issued_at == "2026-01-02T03:04:05Z"
    with pytest.raises(BundleFormatError, match="time zone"):
        _build(entries(), issued_at=moment.replace(tzinfo=None))


def test_labels_are_stored_in_normal_form_c() -> None:
    bundle = _bundle(("cafe\u0301", "naïve"))
    assert set(bundle.labels) == {"café", "naïve"}


_UNUSABLE_LABELS = {
    "empty": "",
    "too long": "x" * 1025,
    "too long in bytes": "é" * 513,
    "line end": "a\nb",
    "escape sequence": "\x1b[2J",
    "c1 control": "a\x9bb",
    "line separator": "a\u2028b",
    "half of a surrogate pair": "\ud800",
}


@pytest.mark.parametrize("label", _UNUSABLE_LABELS.values(), ids=_UNUSABLE_LABELS.keys())
def test_unusable_labels(label: str) -> None:
    with pytest.raises(BundleError) as caught:
        _bundle((label,))
    assert not label or label not in str(caught.value)


_BAD_ENTRIES = {
    "two of one label": [entries()[0], replace(entries()[1], label="daisy")],
    "two of one label once normalised": [
        replace(entries()[0], label="é"),
        replace(entries()[1], label="e\u0301"),
    ],
    "two of one id": [entries()[0], replace(entries()[1], class_id=entries()[0].class_id)],
    "id in upper case": [replace(entries()[0], class_id=ClassId("A" * 32))],
    "short id": [replace(entries()[0], class_id=ClassId("a" * 31))],
    "short salt": [replace(entries()[0], salt="00")],
    "a tensor missing": [replace(entries()[0], tensors={})],
    "a tensor of another dtype": [
        replace(
            entries()[0],
            tensors={**entries()[0].tensors, "class_bias": np.array(1.0)},  # type: ignore[dict-item]
        )
    ],
    "a tensor of another shape": [
        replace(
            entries()[0],
            tensors={**entries()[0].tensors, "class_weight": np.zeros((1, 4), np.float32)},
        )
    ],
    "a value that is not finite": [
        replace(
            entries()[0], tensors={**entries()[0].tensors, "class_bias": np.array(np.nan, "f4")}
        )
    ],
}


@pytest.mark.parametrize("issued", _BAD_ENTRIES.values(), ids=_BAD_ENTRIES.keys())
def test_refuses_to_issue_what_would_not_verify(issued: list[Entry]) -> None:
    with pytest.raises(BundleError) as caught:
        _build(issued)
    assert "\n" not in str(caught.value)


_BAD_STATEMENTS: dict[str, dict[str, object]] = {
    "model id": {"model_id": ModelId("resnet")},
    "no manifest": {"manifest_digests": []},
    "manifest digest without prefix": {"manifest_digests": ["0" * 64]},
    "epoch zero": {"epoch": 0},
    "sequence is true": {"sequence": True},
    "sequence beyond 2 to 53": {"sequence": 2**53},
    "no inputs": {"inputs": (), "entries": []},
    "an input twice": {"inputs": (("x", (1,)), ("x", (1,))), "entries": []},
    "an input of zero size": {"inputs": (("x", (0,)),), "entries": []},
    "an input named like a path": {"inputs": (("../x", (1,)),), "entries": []},
    "an input of eight axes": {"inputs": (("x", (1,) * 8),), "entries": []},
}


@pytest.mark.parametrize("others", _BAD_STATEMENTS.values(), ids=_BAD_STATEMENTS.keys())
def test_refuses_to_state_what_would_not_verify(others: dict[str, object]) -> None:
    with pytest.raises(BundleError):
        _build([], **others) if "entries" in others else _build(entries(), **others)
