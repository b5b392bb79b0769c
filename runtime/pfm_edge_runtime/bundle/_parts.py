"""What a bundle consists of once it was read: the common ground of all that holds one.

Owns how the parts are written to a file again, and how classes are taken out of them::

    parts.without({class_id}).to_bytes()
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np

from pfm_edge_runtime._strict_json import canonical
from pfm_edge_runtime.bundle._container import Buffer, FloatArray, write_tensors
from pfm_edge_runtime.bundle._entries import ClassId, EntryRecord
from pfm_edge_runtime.bundle._statement import EntryDigest, Statement
from pfm_edge_runtime.dsse import Envelope
from pfm_edge_runtime.errors import BundleError

__all__ = ["BUNDLE_VERSION", "Parts"]

BUNDLE_VERSION = "1"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Parts:
    """The parts of a bundle that is well formed.

    Attributes:
        envelope: The statement as stored, with its signatures.
        statement: The statement as read.
        records: The entries, ascending by class id.
        arrays: float32 ``[classes, *slice_shape]`` by name, read-only; row i belongs to record i.
            None after :meth:`wipe`.
        buffer: The file's bytes, writable, if the arrays are views of them.
    """

    envelope: Envelope
    statement: Statement
    records: tuple[EntryRecord, ...]
    arrays: dict[str, FloatArray]
    buffer: Buffer | None = None

    @property
    def tensors(self) -> Mapping[str, FloatArray]:
        """The arrays by name.

        Raises:
            BundleError: They were wiped.
        """
        if not self.arrays:
            raise BundleError("the bundle was wiped from memory: read it again")
        return self.arrays

    def to_bytes(self) -> bytes:
        """Write the file; equal parts give equal bytes.

        Raises:
            BundleError: The arrays were wiped.
        """
        metadata = {
            "pfm_bundle": BUNDLE_VERSION,
            "statement": self.envelope.text,
            "entries": canonical([record.text for record in self.records]).decode("ascii"),
        }
        return write_tensors(self.tensors, metadata)

    def without(self, gone: AbstractSet[ClassId]) -> "Parts":
        """Return the parts that lack these classes, with arrays of their own.

        Raises:
            BundleError: The arrays were wiped.
        """
        kept = [row for row, each in enumerate(self.records) if each.class_id not in gone]
        arrays = {name: tensor[kept] for name, tensor in self.tensors.items()}
        for array in arrays.values():
            array.flags.writeable = False
        records = tuple(self.records[row] for row in kept)
        return replace(self, records=records, arrays=arrays, buffer=None)

    def absent(self) -> frozenset[EntryDigest]:
        """Return the digests that are listed without an entry: what was dropped."""
        return frozenset(self.statement.entry_digests).difference(
            each.digest for each in self.records
        )

    def wipe(self) -> None:
        """Overwrite the arrays with zeros, and the file's bytes if they lie in there."""
        for array in self.arrays.values():
            array.flags.writeable = True
            array.fill(0)
        self.arrays.clear()
        if self.buffer is not None:
            np.frombuffer(self.buffer, np.uint8)[:] = 0
