"""The verification of a bundle: eleven steps, with the numbers of docs/bundle-format.md.

Owns the order: cheap and decisive checks first, nothing allocated for a file that breaks a limit,
nothing read from a statement before its signatures are known to verify. There is one path, for a
bundle that a device opens and for one that was just built::

    verified = verify(data, limits=BundleLimits(), device=expectation)

Steps 3, 5, 10 and 11 need what a device knows (keys, floor, tombstones, recorded absences); where
nobody knows it, on the workstation, they are left out.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pfm_edge_runtime.bundle._container import (
    Buffer,
    FloatArray,
    check_lengths,
    new_buffer,
    view_tensors,
)
from pfm_edge_runtime.bundle._entries import EntryRecord, row_digests
from pfm_edge_runtime.bundle._expectation import (
    Expectation,
    ModelBinding,
    StatementDigest,
    TrustedKeys,
    statement_digest,
)
from pfm_edge_runtime.bundle._json import parse_texts
from pfm_edge_runtime.bundle._limits import BundleLimits
from pfm_edge_runtime.bundle._parts import BUNDLE_VERSION, Parts
from pfm_edge_runtime.bundle._statement import PAYLOAD_TYPE, EntryDigest, InputSpec, Statement
from pfm_edge_runtime.dsse import Envelope
from pfm_edge_runtime.errors import (
    BundleError,
    BundleFormatError,
    EnvelopeError,
    SignatureError,
    VerificationError,
)
from pfm_edge_runtime.keys import PublicKey, key_id

__all__ = ["Verified", "explained", "owned", "verify"]

_KEYS = {"pfm_bundle", "statement", "entries"}
_COPY = "copy the bundle again from where it was exported"
_FIXES: dict[int | None, str] = {  # of what is well formed, and not what it claims to be
    3: "take one that the issuer signed, or tell this device whom to trust: pfm-device init "
    "--replace-trust",
    4: "take the bundle that was exported with this very package",
    5: "take the newest bundle of this model, or export a new one",
    11: "take a newer bundle of this model; after pfm-edge forget, the publisher issues one with "
    "pfm-edge ota publish, or exports again with the same options and --overwrite",
}


@dataclass(frozen=True, slots=True)
class Verified:
    """What the verification found.

    Attributes:
        parts: The bundle, without what step 10 took out.
        signers: The keys whose signatures verified; none where step 3 was left out.
        purged: What step 10 took out.
        absent: The entries that are listed and not there.
    """

    parts: Parts
    signers: frozenset[PublicKey]
    purged: tuple[EntryRecord, ...]
    absent: frozenset[EntryDigest]


def verify(
    data: Buffer,
    *,
    limits: BundleLimits,
    device: Expectation | None = None,
    binding: ModelBinding | None = None,
) -> Verified:
    """Verify the bytes of a bundle.

    Args:
        data: The whole file; the parts are views of it.
        limits: What it may cost.
        device: What the device knows; ``None`` leaves steps 3, 5, 10 and 11 out.
        binding: What it must be for, if there is no device to say so.

    Raises:
        BundleFormatError: The bytes break the format.
        VerificationError: They are well formed, but not what they claim to be.
    """
    signers: frozenset[PublicKey] = frozenset()
    with _step(1):
        check_lengths(data, limits)
    with _step(2):
        tensors, metadata = view_tensors(data, limits=limits)
        envelope, entries = _open_metadata(metadata, limits)
    if device is not None:
        with _step(3):
            signers = _require_signatures(envelope, device.trust)
    with _step(4):
        statement = Statement.parse(envelope.payload, limits)
        _require_binding(statement, binding if device is None else device.binding)
    digest = statement_digest(envelope.payload)
    if device is not None:
        with _step(5):
            _require_place(statement, digest, device)
    with _step(6):
        records = _listed_entries(entries, statement, limits)
    _require_rows(tensors, statement, records)
    parts = Parts(envelope, statement, records, tensors, data)
    purged: tuple[EntryRecord, ...] = ()
    if device is not None:
        with _step(10):
            parts, purged = _purge(parts, device)
        with _step(11):
            _require_absences(parts, purged, digest, device)
    return Verified(parts, signers, purged, parts.absent())


def _require_rows(
    tensors: Mapping[str, FloatArray], statement: Statement, records: tuple[EntryRecord, ...]
) -> None:
    with _step(7):
        _require_shapes(tensors, statement.inputs, len(records))
    with _step(8):
        _require_row_digests(tensors, statement.inputs, records)
    with _step(9):
        _require_finite(tensors)


def owned(data: Buffer) -> Buffer:
    """Return memory that nobody else has: a copy, or the writable memory that was handed over."""
    if not memoryview(data).readonly:
        return data
    copy = new_buffer(len(data))
    copy[:] = data
    return copy


@contextmanager
def explained() -> Iterator[None]:
    """Let what a step finds end with what an operator does about it."""
    try:
        yield
    except BundleError as error:
        fix = _COPY if isinstance(error, BundleFormatError) else _FIXES.get(error.step, _COPY)
        raise type(error)(f"{error}; {fix}", step=error.step) from error


@contextmanager
def _step(number: int) -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        raise type(error)(f"step {number}: {error}", step=number) from error


def _open_metadata(metadata: Mapping[str, str], limits: BundleLimits) -> tuple[Envelope, list[str]]:
    if metadata.get("pfm_bundle") != BUNDLE_VERSION:
        raise BundleFormatError("it is no bundle of version 1: pfm_bundle says otherwise")
    if metadata.keys() != _KEYS:
        raise BundleFormatError(f"its metadata must be {sorted(_KEYS)} and nothing else")
    entries = parse_texts("entries", metadata["entries"].encode("utf-8"), limits)
    try:
        return Envelope.parse(metadata["statement"], payload_type=PAYLOAD_TYPE), entries
    except EnvelopeError as error:
        raise BundleFormatError(f"statement: {error}") from error


def _require_signatures(envelope: Envelope, trust: TrustedKeys | None) -> frozenset[PublicKey]:
    try:
        signers = envelope.signers()
    except SignatureError as error:
        raise VerificationError(str(error)) from error
    if trust is not None and len(signers & trust.keys) < trust.threshold:
        by = ", ".join(sorted(f"{key_id(each)[:16]}…" for each in signers)) or "nobody"
        raise VerificationError(
            f"{len(signers & trust.keys)} trusted keys signed it, "
            f"{trust.threshold} of {len(trust.keys)} are needed; it is signed by {by}"
        )
    return signers


def _require_binding(statement: Statement, binding: ModelBinding | None) -> None:
    if binding is None:
        return
    if statement.model_id != binding.model_id:
        raise VerificationError(
            f"the bundle belongs to model {statement.model_id[:19]}…, "
            f"the package holds {binding.model_id[:19]}…"
        )
    if binding.manifest_digest not in statement.manifests:
        raise VerificationError("the bundle was not issued for this manifest.json")
    if dict(statement.inputs) != dict(binding.inputs):
        raise VerificationError("the bundle has other class inputs than manifest.json")


def _require_place(statement: Statement, digest: StatementDigest, device: Expectation) -> None:
    floor, place = device.floor, (statement.epoch, statement.sequence)
    if floor is None:
        return
    if place < (floor.epoch, floor.sequence):
        raise VerificationError(
            f"the bundle is older than what this device had: epoch {place[0]}, sequence "
            f"{place[1]}, not epoch {floor.epoch}, sequence {floor.sequence} or later"
        )
    if place == (floor.epoch, floor.sequence) and digest != floor.statement:
        raise VerificationError(
            f"the issuer stated two things at epoch {place[0]}, sequence {place[1]}: "
            "this is not what this device had"
        )


def _listed_entries(
    entries: list[str], statement: Statement, limits: BundleLimits
) -> tuple[EntryRecord, ...]:
    if len(entries) > limits.max_classes:
        raise BundleFormatError(f"there are more than {limits.max_classes} entries")
    records = tuple(EntryRecord.parse(text, limits) for text in entries)
    listed = set(statement.entry_digests)
    for record in records:
        if record.digest not in listed:
            raise VerificationError(f"the statement does not list the entry of {record.class_id}")
    for before, after in pairwise(records):
        if before.class_id >= after.class_id:
            raise VerificationError(f"class {after.class_id} is out of order, or there twice")
    if len({record.label for record in records}) != len(records):
        raise VerificationError("two classes have one label")
    return records


def _require_shapes(
    tensors: Mapping[str, FloatArray], inputs: tuple[InputSpec, ...], rows: int
) -> None:
    if tensors.keys() != {each.name for each in inputs}:
        raise VerificationError("the tensors are not those that the statement names")
    for name, slice_shape in inputs:
        if tensors[name].shape != (rows, *slice_shape):
            raise VerificationError(
                f"tensor {name} has shape {list(tensors[name].shape)}, "
                f"its entries need {[rows, *slice_shape]}"
            )


def _require_row_digests(
    tensors: Mapping[str, FloatArray],
    inputs: tuple[InputSpec, ...],
    records: tuple[EntryRecord, ...],
) -> None:
    found = row_digests((tensors[each.name] for each in inputs), len(records))
    for record, digest in zip(records, found, strict=True):
        if digest != record.row_digest:
            raise VerificationError(f"the rows of class {record.class_id} were altered")


def _require_finite(tensors: Mapping[str, FloatArray]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise VerificationError(f"tensor {name} holds values that are not finite")


def _purge(parts: Parts, device: Expectation) -> tuple[Parts, tuple[EntryRecord, ...]]:
    """Take out every entry of a class that was forgotten on this device."""
    purged = tuple(each for each in parts.records if each.class_id in device.tombstones)
    if not purged:
        return parts, ()
    remaining = parts.without({each.class_id for each in purged})
    parts.wipe()
    return remaining, purged


def _require_absences(
    parts: Parts, purged: tuple[EntryRecord, ...], digest: StatementDigest, device: Expectation
) -> None:
    """Compare what is gone with what this device recorded as gone.

    What step 10 took out may be recorded for this statement or not yet: the class was perhaps
    forgotten while another statement served this model.
    """
    if digest not in device.absences:
        return
    recorded = frozenset(device.absences[digest])
    absent = parts.absent()
    if dropped := absent - recorded - {each.digest for each in purged}:
        raise VerificationError(f"it lacks {len(dropped)} of the classes that this device had")
    if returned := recorded.intersection(each.digest for each in parts.records):
        raise VerificationError(
            f"it holds {len(returned)} of the classes that this device recorded as gone"
        )
