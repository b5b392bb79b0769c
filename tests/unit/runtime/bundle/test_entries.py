"""Entry strings: the quick way to read one and the thorough way agree."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfm_edge_runtime.bundle._entries import EntryRecord, _any_parts, _plain_parts
from pfm_edge_runtime.bundle._limits import DEFAULT_LIMITS
from pfm_edge_runtime.errors import BundleFormatError
from tests.support.containers import compact
from tests.support.forge import base64url

_GOOD = ["0" * 32, "a" * 32, "daisy", "f" * 64]
_PIECES = st.sampled_from(
    [
        b'"',
        b"\\",
        b'\\"',
        b"\\u0041",
        b",",
        b"[",
        b"]",
        b"\xff",
        b"\xc3\xa9",
        b"\x00",
        b"\x7f",
        b" ",
    ]
)


def _entry(label: str) -> EntryRecord:
    return EntryRecord.parse(base64url(compact([*_GOOD[:2], label, _GOOD[3]])), DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "label",
    ["daisy", 'a "quoted" one', "back\\slash", "naïve café", "дом", "👩‍🚀", "a\u200cb", "'"],
)
def test_labels_of_every_kind(label: str) -> None:
    record = _entry(label)
    assert (record.salt, record.class_id, record.label, record.row_digest) == (
        *_GOOD[:2],
        label,
        _GOOD[3],
    )
    assert record.digest == hashlib.sha256(record.text.encode()).hexdigest()


@pytest.mark.parametrize("label", ["x" * 1024, "é" * 512, '"' * 1024])
def test_the_longest_labels(label: str) -> None:
    assert _entry(label).label == label
    with pytest.raises(BundleFormatError, match="bytes"):
        _entry(label + "x")


@given(st.integers(0, 150), st.integers(0, 4), st.one_of(_PIECES, st.binary(max_size=3)))
def test_the_quick_way_reads_nothing_that_the_thorough_way_does_not(
    begin: int, skip: int, piece: bytes
) -> None:
    good = compact(_GOOD)
    stored = good[:begin] + piece + good[begin + skip :]
    quick = _plain_parts(stored)
    if quick is not None:
        assert quick == _any_parts(stored, DEFAULT_LIMITS)
        assert list(quick) == json.loads(stored)
