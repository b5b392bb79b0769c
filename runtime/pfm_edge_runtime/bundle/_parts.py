"""What a bundle consists of once it was read: the common ground of all that holds one.

Owns how the parts are written to a file again, and how classes are taken out of them::

    parts.without({class_id}).to_bytes()
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pfm_edge_runtime._strict_json import canonical
from pfm_edge_runtime.bundle._container import FloatArray, write_tensors
from pfm_edge_runtime.bundle._entries import ClassId, EntryRecord
from pfm_edge_runtime.bundle._statement import EntryDigest, Statement
from pfm_edge_runtime.dsse import Envelope

__all__ = ["BUNDLE_VERSION", "Parts", "encode"]

BUNDLE_VERSION = "1"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Parts:
    """The parts of a bundle that is well formed.

    Attributes:
        envelope: The statement as stored, with its signatures.
        statement: The statement as read.
        records: The entries, ascending by class id.
        tensors: float32 ``[classes, *slice_shape]`` by name; row i belongs to record i.
    """

    envelope: Envelope
    statement: Statement
    records: tuple[EntryRecord, ...]
    tensors: Mapping[str, FloatArray]

    def to_bytes(self) -> bytes:
        """Write the file; equal parts give equal bytes."""
        return encode(self.envelope, self.records, self.tensors)

    def without(self, gone: AbstractSet[ClassId]) -> "Parts":
        """Return the parts that lack these classes; what stays is carried over as stored."""
        kept = [row for row, each in enumerate(self.records) if each.class_id not in gone]
        tensors = {name: tensor[kept] for name, tensor in self.tensors.items()}
        for tensor in tensors.values():
            tensor.flags.writeable = False
        records = tuple(self.records[row] for row in kept)
        return Parts(self.envelope, self.statement, records, tensors)

    def absent(self) -> frozenset[EntryDigest]:
        """Return the digests that are listed without an entry: what was dropped."""
        return frozenset(self.statement.entry_digests).difference(
            each.digest for each in self.records
        )


def encode(
    envelope: Envelope, records: tuple[EntryRecord, ...], tensors: Mapping[str, FloatArray]
) -> bytes:
    """Write a bundle's file."""
    metadata = {
        "pfm_bundle": BUNDLE_VERSION,
        "statement": envelope.text,
        "entries": canonical([record.text for record in records]).decode("ascii"),
    }
    return write_tensors(tensors, metadata)
