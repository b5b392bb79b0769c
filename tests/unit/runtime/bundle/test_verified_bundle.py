"""What a device takes, and why: signatures, floors, tombstones and recorded absences."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pfm_edge_runtime.bundle import (
    Bundle,
    ClassId,
    EntryDigest,
    Expectation,
    ModelBinding,
    Place,
    StatementDigest,
    TrustedKeys,
    VerifiedBundle,
    new_buffer,
)
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import (
    BundleError,
    ConfigError,
    EnvelopeError,
    UnknownClassError,
    VerificationError,
)
from pfm_edge_runtime.keys import SigningKey
from tests.support.tiny_package import INPUTS, MODEL_ID, build_bundle

_ISSUER, _SECOND, _STRANGER = (SigningKey.generate() for _ in range(3))
_BINDING = ModelBinding(MODEL_ID, digest_of(b"{}"), INPUTS)
_PLAIN = build_bundle(b"{}")
_SIGNED = _PLAIN.signed_by(_ISSUER)
_DATA = _SIGNED.to_bytes()
_STATEMENT = _SIGNED.statement_digest
_IDS, _DIGESTS = _SIGNED.class_ids, _SIGNED.entry_digests


def _trusting(threshold: int, *signers: SigningKey) -> TrustedKeys:
    return TrustedKeys(threshold, frozenset(each.public for each in signers))


_MANAGED = Expectation(_BINDING, _trusting(1, _ISSUER))
_UNMANAGED = Expectation(_BINDING, TrustedKeys(0, frozenset()))
_FIRST_USE = Expectation(_BINDING)


def _had(
    *absent: int, tombstones: tuple[int, ...] = (), others: tuple[str, ...] = ()
) -> Expectation:
    """Return what a device knows that had this bundle, without these rows."""
    return replace(
        _MANAGED,
        floor=Place(1, 1, _STATEMENT),
        tombstones={_IDS[row] for row in tombstones},
        absences={_STATEMENT: {*(_DIGESTS[row] for row in absent), *map(EntryDigest, others)}},
    )


# --- signing


def test_signing_changes_the_signatures_and_nothing_else() -> None:
    assert _SIGNED.payload == _PLAIN.payload
    assert _SIGNED.statement_digest == _PLAIN.statement_digest
    assert _SIGNED.entry_digests == _PLAIN.entry_digests
    assert _SIGNED.envelope.signers() == {_ISSUER.public}
    assert Bundle.from_bytes(_DATA).to_bytes() == _DATA
    assert _SIGNED.without(_IDS).envelope == _SIGNED.envelope
    full = functools.reduce(Bundle.signed_by, (SigningKey.generate() for _ in range(16)), _PLAIN)
    with pytest.raises(EnvelopeError, match="at most 16"):
        full.signed_by(_ISSUER)


# --- step 3: who must have signed

_ACCEPTED = {
    "first use, unsigned": (_PLAIN, _FIRST_USE.trust),
    "first use, signed": (_SIGNED, _FIRST_USE.trust),
    "unmanaged, unsigned": (_PLAIN, _UNMANAGED.trust),
    "unmanaged, signed": (_SIGNED, _UNMANAGED.trust),
    "the one key": (_SIGNED, _trusting(1, _ISSUER)),
    "one of two keys": (_SIGNED, _trusting(1, _ISSUER, _SECOND)),
    "two of two keys": (_SIGNED.signed_by(_SECOND), _trusting(2, _ISSUER, _SECOND)),
    "the one key and a stranger": (_SIGNED.signed_by(_STRANGER), _trusting(1, _ISSUER)),
}


@pytest.mark.parametrize(("bundle", "trust"), _ACCEPTED.values(), ids=_ACCEPTED.keys())
def test_takes_what_enough_trusted_keys_signed(bundle: Bundle, trust: TrustedKeys | None) -> None:
    data = bundle.to_bytes()
    verified = VerifiedBundle.from_bytes(data, Expectation(_BINDING, trust))
    assert verified.to_bytes() == data
    assert verified.signers == bundle.envelope.signers()


@pytest.mark.parametrize(
    ("threshold", "signers"), [(-1, ()), (1, ()), (0, (_ISSUER,)), (2, (_ISSUER,))]
)
def test_a_threshold_that_makes_no_sense(threshold: int, signers: tuple[SigningKey, ...]) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        _trusting(threshold, *signers)


def test_a_statement_is_not_read_before_its_signatures_are_verified() -> None:
    """A stranger's statement breaks the format too, and is refused for being a stranger's."""
    parts = Bundle.from_bytes(_DATA)._parts
    payload = b"no statement"
    envelope = type(parts.envelope).seal(payload, parts.envelope.payload_type, [_STRANGER])
    data = replace(parts, envelope=envelope).to_bytes()
    for expectation, step in ((_MANAGED, 3), (_FIRST_USE, 4)):
        with pytest.raises(BundleError) as caught:
            VerifiedBundle.from_bytes(data, expectation)
        assert caught.value.step == step


# --- step 5: its place


@pytest.mark.parametrize(("epoch", "sequence"), [(1, 1), (0, 9), (0, 0)])
def test_takes_a_bundle_at_its_floor_or_above(epoch: int, sequence: int) -> None:
    place = Place(epoch, sequence, _STATEMENT)
    found = VerifiedBundle.from_bytes(_DATA, replace(_MANAGED, floor=place))
    assert found.place == Place(1, 1, _STATEMENT)


def test_a_redacted_or_signed_bundle_is_the_same_statement() -> None:
    for bundle in (_SIGNED.without([_IDS[2]]), _SIGNED.signed_by(_STRANGER)):
        expectation = replace(_MANAGED, floor=Place(1, 1, _STATEMENT))
        assert VerifiedBundle.from_bytes(bundle.to_bytes(), expectation).place.statement == (
            _STATEMENT
        )


# --- step 10: what was forgotten here


def test_a_forgotten_class_is_taken_out_before_anyone_sees_it() -> None:
    found = VerifiedBundle.from_bytes(_DATA, replace(_MANAGED, tombstones={_IDS[1], _IDS[3]}))
    assert found.class_ids == (_IDS[0], _IDS[2])
    assert found.purged == ((_IDS[1], _DIGESTS[1]), (_IDS[3], _DIGESTS[3]))
    assert found.absent == {_DIGESTS[1], _DIGESTS[3]}
    assert found.to_bytes() == _SIGNED.without([_IDS[1], _IDS[3]]).to_bytes()


def test_the_last_class_may_be_forgotten() -> None:
    found = VerifiedBundle.from_bytes(_DATA, replace(_MANAGED, tombstones=set(_IDS)))
    assert len(found) == 0
    assert found.absent == set(_DIGESTS)
    assert VerifiedBundle.from_bytes(found.to_bytes(), _MANAGED).to_bytes() == found.to_bytes()


def test_the_rows_that_were_taken_out_are_wiped_from_the_buffer() -> None:
    buffer = bytearray(_DATA)
    rows = _SIGNED.tensors["prompt_values"][1].tobytes()
    assert rows in buffer
    VerifiedBundle.from_bytes(buffer, replace(_MANAGED, tombstones={_IDS[1]}))
    assert not any(buffer)


def test_a_tombstone_of_another_class_changes_nothing() -> None:
    found = VerifiedBundle.from_bytes(_DATA, replace(_MANAGED, tombstones={ClassId("f" * 32)}))
    assert found.purged == ()
    assert found.to_bytes() == _DATA


# --- step 11: what is recorded as gone

_CONSISTENT = {
    "as it was installed": ((), _had()),
    "a record of an entry that is not listed": ((), _had(others=("0" * 64,))),
    "as it was left": ((1,), _had(1, tombstones=(1,))),
    "installed without a class": ((2,), _had(2)),
    "forgotten, not rewritten yet": ((), _had(1, tombstones=(1,))),
    "forgotten under another statement": ((), _had(tombstones=(1,))),
    "two gone, one of them not rewritten yet": ((0,), _had(0, 3, tombstones=(0, 3))),
    "a backup of the file put back": ((), _had(0, 1, 2, 3, tombstones=(0, 1, 2, 3))),
}


@pytest.mark.parametrize(("gone", "known"), _CONSISTENT.values(), ids=_CONSISTENT.keys())
def test_takes_what_agrees_with_the_record(gone: tuple[int, ...], known: Expectation) -> None:
    data = _SIGNED.without([_IDS[row] for row in gone]).to_bytes()
    found = VerifiedBundle.from_bytes(data, known)
    assert not known.tombstones & set(found.class_ids)
    assert found.absent == set(_DIGESTS) - set(found.entry_digests)


def test_nothing_is_compared_with_a_statement_that_was_never_installed() -> None:
    other = {StatementDigest("0" * 64): {EntryDigest("1" * 64)}}
    data = _SIGNED.without([_IDS[0]]).to_bytes()
    found = VerifiedBundle.from_bytes(data, replace(_MANAGED, absences=other))
    assert found.absent == {_DIGESTS[0]}


def test_the_message_counts_and_names_nobody() -> None:
    with pytest.raises(VerificationError, match="lacks 1 of the classes") as caught:
        VerifiedBundle.from_bytes(_SIGNED.without([_IDS[0]]).to_bytes(), _had())
    assert caught.value.step == 11
    assert _IDS[0] not in str(caught.value)


# --- the object


def test_it_comes_from_verification_only() -> None:
    verified = VerifiedBundle.from_bytes(_DATA, _MANAGED)
    with pytest.raises(TypeError, match="from_bytes"):
        VerifiedBundle()
    with pytest.raises(TypeError):
        dataclasses.replace(verified, bundle=_PLAIN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        verified.bundle = _PLAIN  # type: ignore[misc]
    assert copy.copy(verified).bundle is verified.bundle


def test_it_shows_what_its_bundle_shows() -> None:
    verified = VerifiedBundle.from_bytes(_DATA, _MANAGED)
    for name in ("class_ids", "labels", "model_id", "inputs", "statement", "entry_digests"):
        assert getattr(verified, name) == getattr(verified.bundle, name)
    assert verified.statement_digest == _STATEMENT
    for name, tensor in verified.tensors.items():
        np.testing.assert_array_equal(tensor, _SIGNED.tensors[name])
    assert repr(verified) == f"VerifiedBundle({MODEL_ID}, 4 classes)"


def test_without_stays_verified() -> None:
    verified = VerifiedBundle.from_bytes(_DATA, replace(_MANAGED, tombstones={_IDS[3]}))
    smaller = verified.without([_IDS[1]])
    assert smaller.class_ids == (_IDS[0], _IDS[2])
    assert smaller.absent == {_DIGESTS[1], _DIGESTS[3]}
    assert (smaller.purged, smaller.signers, smaller.place) == (
        verified.purged,
        verified.signers,
        verified.place,
    )
    assert smaller.to_bytes() == _SIGNED.without([_IDS[1], _IDS[3]]).to_bytes()
    with pytest.raises(UnknownClassError):
        smaller.without([_IDS[3]])


# --- memory


def _buffer() -> memoryview:
    buffer = new_buffer(len(_DATA))
    buffer[:] = _DATA
    return buffer


_GIVEN = {
    "bytes": (lambda: _DATA, False),
    "read-only view": (lambda: memoryview(_DATA), False),
    "bytearray": (lambda: bytearray(_DATA), True),
    "writable view": (_buffer, True),
}


@pytest.mark.parametrize(("given", "shared"), _GIVEN.values(), ids=_GIVEN.keys())
def test_what_can_be_written_to_is_taken_over(
    given: Callable[[], bytes | bytearray | memoryview], shared: bool
) -> None:
    data = given()
    verified = VerifiedBundle.from_bytes(data, _MANAGED)
    assert verified.to_bytes() == _DATA
    for tensor in verified.tensors.values():
        assert np.shares_memory(tensor, np.frombuffer(data, np.uint8)) == shared
        with pytest.raises(ValueError, match="read-only"):
            tensor[...] = 0
    verified.wipe()
    assert any(data) != shared


def test_nothing_at_all_is_refused_in_every_form() -> None:
    for data in (b"", bytearray(), new_buffer(0)):
        with pytest.raises(BundleError, match="0 bytes"):
            VerifiedBundle.from_bytes(data, _MANAGED)


@pytest.mark.parametrize("redacted", [False, True])
def test_what_was_wiped_is_zero_and_cannot_be_written(redacted: bool) -> None:
    buffer = bytearray(_DATA)
    verified = VerifiedBundle.from_bytes(buffer, _MANAGED)
    if redacted:
        verified = verified.without([_IDS[0]])
    tensors = dict(verified.tensors)
    verified.wipe()
    assert not any(tensor.any() for tensor in tensors.values())
    assert redacted == any(buffer)
    for use in (verified.to_bytes, lambda: verified.tensors, lambda: verified.without([])):
        with pytest.raises(BundleError, match="wiped"):
            use()
    verified.wipe()
