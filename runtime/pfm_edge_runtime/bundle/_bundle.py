"""A bundle: the class tensors of the classes known now, and the issuer's statement about them.

Owns the object that everything else passes around. There is no way to hold a bundle whose digests,
order or shapes are wrong: it comes from :meth:`Bundle.from_bytes`, from :meth:`Bundle.build`
(which goes through the same verification), or from another bundle, with fewer classes::

    bundle = Bundle.from_bytes(data)
    smaller = bundle.without([bundle.class_ids[0]])
    smaller.to_bytes()
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

import numpy as np

from pfm_edge_runtime.bundle._container import Buffer, FloatArray
from pfm_edge_runtime.bundle._entries import ClassId, Entry, EntryRecord, row_digests
from pfm_edge_runtime.bundle._expectation import ModelBinding, StatementDigest, statement_digest
from pfm_edge_runtime.bundle._limits import DEFAULT_LIMITS, BundleLimits
from pfm_edge_runtime.bundle._parts import Parts
from pfm_edge_runtime.bundle._statement import (
    PAYLOAD_TYPE,
    EntryDigest,
    InputSpec,
    Statement,
    format_time,
)
from pfm_edge_runtime.bundle._verification import explained, owned, verify
from pfm_edge_runtime.dsse import Envelope, MessageSigner
from pfm_edge_runtime.errors import BundleFormatError, UnknownClassError
from pfm_edge_runtime.manifest import ModelId

__all__ = ["Bundle"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Bundle:
    """A well-formed set of classes; immutable. Made by its class methods and from another one.

    Who issued it is another question: :class:`VerifiedBundle` answers it.
    """

    _parts: Parts

    @classmethod
    def from_bytes(
        cls,
        data: Buffer,
        *,
        limits: BundleLimits = DEFAULT_LIMITS,
        binding: ModelBinding | None = None,
    ) -> "Bundle":
        """Read a bundle and verify that it is well formed: all steps but 3, 5, 10 and 11.

        ``to_bytes`` of the result gives ``data`` back. Signatures are read, not verified:
        ``bundle.envelope.signers()`` does that.

        Args:
            data: The whole file. What cannot be written to is copied; a bytearray or a writable
                memoryview (``new_buffer``) is taken over and becomes the memory of the tensors, so
                nobody else may write to it again.
            limits: What it may cost.
            binding: The package that it must be for; ``None`` leaves that open.

        Raises:
            BundleFormatError: The bytes break the format.
            VerificationError: They are well formed, but not what they claim to be.
        """
        with explained():
            return cls(verify(owned(data), limits=limits, binding=binding).parts)

    @classmethod
    def build(  # noqa: PLR0913 (a statement has that many parts, all by keyword)
        cls,
        *,
        model_id: ModelId,
        manifest_digests: Collection[str],
        inputs: Sequence[tuple[str, tuple[int, ...]]],
        entries: Sequence[Entry],
        issued_at: datetime,
        epoch: int = 1,
        sequence: int = 1,
    ) -> "Bundle":
        """Issue a bundle: sort the entries, draw missing salts, state what it holds.

        Args:
            model_id: The trained model.
            manifest_digests: ``"sha256:…"`` of every ``manifest.json`` that it may serve.
            inputs: Name and slice shape of the class inputs, as in ``Manifest.bundle_inputs``.
            entries: The classes; none is legal.
            issued_at: With a time zone; stored in UTC, to the second.
            epoch: With ``sequence``, its place in time; from 1 up.
            sequence: As ``epoch``.

        Raises:
            BundleError: Something in it cannot be stored, or would not verify.
        """
        specs = tuple(InputSpec(name, tuple(shape)) for name, shape in inputs)
        ordered = sorted(entries, key=lambda entry: entry.class_id)
        tensors = {spec.name: _stack(spec, ordered) for spec in specs}
        digests = row_digests(tensors.values(), len(ordered))
        records = tuple(
            EntryRecord.make(entry, digest, DEFAULT_LIMITS)
            for entry, digest in zip(ordered, digests, strict=True)
        )
        statement = Statement(
            model_id=model_id,
            manifests=tuple(sorted(set(manifest_digests))),
            epoch=epoch,
            sequence=sequence,
            issued_at=format_time(issued_at),
            inputs=specs,
            entry_digests=tuple(sorted(record.digest for record in records)),
        )
        envelope = Envelope.seal(statement.to_payload(), PAYLOAD_TYPE)
        data = bytearray(Parts(envelope, statement, records, tensors).to_bytes())
        return cls(verify(data, limits=DEFAULT_LIMITS).parts)

    def to_bytes(self) -> bytes:
        """Write the file; equal bundles give equal bytes."""
        return self._parts.to_bytes()

    def without(self, class_ids: Collection[ClassId]) -> "Bundle":
        """Return the bundle that lacks these classes.

        The statement and the entries that stay are carried over as stored, so the issuer can
        predict the bytes, and the order in which classes go does not matter. What remains of a
        class is a salted digest in the statement.

        Raises:
            UnknownClassError: One of them is not in this bundle.
        """
        gone = set(class_ids)
        if not gone <= set(self.class_ids):
            raise UnknownClassError("the bundle does not hold every class that is to go")
        return Bundle(self._parts.without(gone))

    def wipe(self) -> None:
        """Overwrite the tensors in memory, once nobody computes with them.

        Only names and statement can be read afterwards. Copies that were made of the tensors are
        not reached, nor are the labels.
        """
        self._parts.wipe()

    def signed_by(self, signer: MessageSigner) -> "Bundle":
        """Return the bundle with one more signature over the same statement.

        Raises:
            EnvelopeError: It has as many as it may have.
        """
        return Bundle(replace(self._parts, envelope=self._parts.envelope.signed_by(signer)))

    @property
    def model_id(self) -> ModelId:
        """The trained model that the class tensors belong to."""
        return self._parts.statement.model_id

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Name and slice shape of the class inputs, in the statement's order."""
        return self._parts.statement.inputs

    @property
    def statement(self) -> Statement:
        """What the issuer states; it also lists what has gone since."""
        return self._parts.statement

    @property
    def payload(self) -> bytes:
        """The statement's bytes as stored: what is hashed and signed."""
        return self._parts.envelope.payload

    @property
    def envelope(self) -> Envelope:
        """The statement as stored, with its signatures."""
        return self._parts.envelope

    @property
    def statement_digest(self) -> StatementDigest:
        """The digest of :attr:`payload`: which statement this is."""
        return statement_digest(self.payload)

    @property
    def entry_digests(self) -> tuple[EntryDigest, ...]:
        """The digests of the entries that are there, in the order of :attr:`class_ids`."""
        return tuple(record.digest for record in self._parts.records)

    @property
    def class_ids(self) -> tuple[ClassId, ...]:
        """The classes, ascending; row i of every tensor belongs to class i."""
        return tuple(record.class_id for record in self._parts.records)

    @property
    def labels(self) -> tuple[str, ...]:
        """Their labels, in the same order."""
        return tuple(record.label for record in self._parts.records)

    @property
    def tensors(self) -> Mapping[str, FloatArray]:
        """float32 ``[classes, *slice_shape]`` by name; read-only."""
        return MappingProxyType(dict(self._parts.tensors))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries, in order, with their salts: what a new issue of them starts from."""
        tensors = self._parts.tensors.items()
        return tuple(
            Entry(
                class_id=record.class_id,
                label=record.label,
                tensors={name: tensor[row, ...] for name, tensor in tensors},
                salt=record.salt,
            )
            for row, record in enumerate(self._parts.records)
        )

    def __len__(self) -> int:
        return len(self._parts.records)

    def __repr__(self) -> str:
        return f"Bundle({self.model_id}, {len(self)} classes)"


def _stack(spec: InputSpec, entries: Sequence[Entry]) -> FloatArray:
    """Put the entries' slices of one input on top of one another: ``[classes, *slice_shape]``."""
    stacked = np.empty((len(entries), *spec.slice_shape), np.float32)
    for row, entry in enumerate(entries):
        found = entry.tensors.get(spec.name)
        if found is None or found.dtype != np.float32 or found.shape != spec.slice_shape:
            raise BundleFormatError(
                f"class {entry.class_id} needs a float32 {spec.name} of shape "
                f"{list(spec.slice_shape)}"
            )
        stacked[row] = found
    return stacked
