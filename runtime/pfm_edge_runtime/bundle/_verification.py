"""The verification of a bundle, step by step, with the numbers of the format's specification.

Owns the order: cheap and decisive checks first, nothing allocated for a file that breaks a limit.
There is one path, for a bundle that is read and for one that was just built::

    parts = verify(data, limits=BundleLimits(), binding=None)

Steps 3, 5, 10 and 11 are about signatures and about the device's memory (keys, floors,
tombstones, recorded absences); they are not part of an unsigned bundle.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pfm_edge_runtime.bundle._container import FloatArray, check_lengths, read_tensors
from pfm_edge_runtime.bundle._entries import EntryRecord, row_digest
from pfm_edge_runtime.bundle._json import parse_texts
from pfm_edge_runtime.bundle._limits import BundleLimits
from pfm_edge_runtime.bundle._statement import Envelope, InputSpec, Statement
from pfm_edge_runtime.errors import BundleError, BundleFormatError, VerificationError
from pfm_edge_runtime.manifest import ModelId

__all__ = ["BUNDLE_VERSION", "ModelBinding", "Parts", "verify"]

BUNDLE_VERSION = "1"
_KEYS = {"pfm_bundle", "statement", "entries"}


@dataclass(frozen=True, slots=True)
class ModelBinding:
    """What a bundle must be for: one package's model, manifest and class inputs.

    Attributes:
        model_id: The package's model.
        manifest_digest: ``"sha256:…"`` of the bytes of its ``manifest.json``.
        inputs: Its class inputs; their order does not matter.
    """

    model_id: ModelId
    manifest_digest: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a verified bundle consists of.

    Attributes:
        envelope: The statement as stored.
        statement: The statement as read.
        records: The entries, ascending by class id.
        tensors: float32 ``[classes, *slice_shape]`` by name; row i belongs to record i.
    """

    envelope: Envelope
    statement: Statement
    records: tuple[EntryRecord, ...]
    tensors: Mapping[str, FloatArray]


def verify(data: bytes, *, limits: BundleLimits, binding: ModelBinding | None) -> Parts:
    """Verify the bytes of a bundle.

    Args:
        data: The whole file.
        limits: What it may cost.
        binding: What it must be for, if that is known.

    Raises:
        BundleFormatError: The bytes break the format.
        VerificationError: They are well formed, but not what they claim to be.
    """
    with _step(1):
        check_lengths(data, limits)
    with _step(2):
        tensors, metadata = read_tensors(data, limits=limits)
        envelope, entries = _open_metadata(metadata, limits)
        statement = Statement.parse(envelope.payload, limits)
    if binding is not None:
        with _step(4):
            _require_binding(statement, binding)
    with _step(6):
        records = _listed_entries(entries, statement, limits)
    with _step(7):
        _require_shapes(tensors, statement.inputs, len(records))
    with _step(8):
        _require_row_digests(tensors, statement.inputs, records)
    with _step(9):
        _require_finite(tensors)
    return Parts(envelope, statement, records, tensors)


@contextmanager
def _step(number: int) -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        raise type(error)(f"step {number}: {error}") from error


def _open_metadata(metadata: Mapping[str, str], limits: BundleLimits) -> tuple[Envelope, list[str]]:
    if metadata.get("pfm_bundle") != BUNDLE_VERSION:
        raise BundleFormatError("it is no bundle of version 1: pfm_bundle says otherwise")
    if metadata.keys() != _KEYS:
        raise BundleFormatError(f"its metadata must be {sorted(_KEYS)} and nothing else")
    entries = parse_texts("entries", metadata["entries"].encode("utf-8"), limits)
    return Envelope.parse(metadata["statement"], limits), entries


def _require_binding(statement: Statement, binding: ModelBinding) -> None:
    if statement.model_id != binding.model_id:
        raise VerificationError(
            f"the bundle belongs to model {statement.model_id[:19]}…, "
            f"the package holds {binding.model_id[:19]}…"
        )
    if binding.manifest_digest not in statement.manifests:
        raise VerificationError("the bundle was not issued for this manifest.json")
    if dict(statement.inputs) != dict(binding.inputs):
        raise VerificationError("the bundle has other class inputs than manifest.json")


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
    ordered = [tensors[each.name] for each in inputs]
    for index, record in enumerate(records):
        if row_digest(tensor[index] for tensor in ordered) != record.row_digest:
            raise VerificationError(f"the rows of class {record.class_id} were altered")


def _require_finite(tensors: Mapping[str, FloatArray]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise VerificationError(f"tensor {name} holds values that are not finite")
