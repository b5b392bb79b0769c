"""A bundle that this device may use: it passed all eleven steps.

Owns the only type that a classifier takes. There is no way to make one but by verification, and no
way to change one but by taking classes out::

    verified = VerifiedBundle.from_bytes(data, expectation)
    verified.without([verified.class_ids[0]]).to_bytes()
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pfm_edge_runtime.bundle._bundle import Bundle
from pfm_edge_runtime.bundle._container import Buffer, FloatArray
from pfm_edge_runtime.bundle._entries import ClassId
from pfm_edge_runtime.bundle._expectation import Expectation, Place, StatementDigest
from pfm_edge_runtime.bundle._limits import DEFAULT_LIMITS, BundleLimits
from pfm_edge_runtime.bundle._statement import EntryDigest, InputSpec, Statement
from pfm_edge_runtime.bundle._verification import explained, owned, verify
from pfm_edge_runtime.keys import PublicKey
from pfm_edge_runtime.manifest import ModelId

__all__ = ["VerifiedBundle"]


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class VerifiedBundle:
    """A bundle that passed all eleven steps; immutable.

    Attributes:
        bundle: Its classes, without any that was forgotten on this device.
        purged: Class id and entry digest of what was taken out for that reason. These are still
            in the bytes that were read: the caller writes :meth:`to_bytes` over them.
        signers: The keys that signed it; all of their signatures verified.
        place: Where its statement stands.
        absent: The entries that its statement lists and that are not in ``bundle``.
    """

    bundle: Bundle
    purged: tuple[tuple[ClassId, EntryDigest], ...]
    signers: frozenset[PublicKey]
    place: Place
    absent: frozenset[EntryDigest]

    def __init__(self) -> None:
        raise TypeError("a VerifiedBundle comes from VerifiedBundle.from_bytes")

    @classmethod
    def from_bytes(
        cls,
        data: Buffer,
        expectation: Expectation,
        *,
        limits: BundleLimits = DEFAULT_LIMITS,
    ) -> "VerifiedBundle":
        """Verify a bundle, in eleven steps (docs/bundle-format.md).

        Args:
            data: The whole file. What cannot be written to is copied; a bytearray or a writable
                memoryview (``new_buffer``) is taken over and becomes the memory of the tensors, so
                nobody else may write to it again.
            expectation: What this device knows.
            limits: What the file may cost.

        Raises:
            BundleFormatError: The bytes break the format.
            VerificationError: They are well formed, but not what this device may use.
        """
        with explained():
            found = verify(owned(data), limits=limits, device=expectation)
        bundle = Bundle(found.parts)
        statement = found.parts.statement
        return _make(
            bundle=bundle,
            purged=tuple((each.class_id, each.digest) for each in found.purged),
            signers=found.signers,
            place=Place(statement.epoch, statement.sequence, bundle.statement_digest),
            absent=found.absent,
        )

    def to_bytes(self) -> bytes:
        """Write the file; equal bundles give equal bytes."""
        return self.bundle.to_bytes()

    def without(self, class_ids: Collection[ClassId]) -> "VerifiedBundle":
        """Return the bundle that lacks these classes: ``Bundle.without``, still verified.

        Raises:
            UnknownClassError: One of them is not in this bundle.
        """
        smaller = self.bundle.without(class_ids)
        absent = frozenset(smaller.statement.entry_digests).difference(smaller.entry_digests)
        return _make(
            bundle=smaller,
            purged=self.purged,
            signers=self.signers,
            place=self.place,
            absent=absent,
        )

    def wipe(self) -> None:
        """As :meth:`Bundle.wipe`."""
        self.bundle.wipe()

    @property
    def model_id(self) -> ModelId:
        """As :attr:`Bundle.model_id`."""
        return self.bundle.model_id

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """As :attr:`Bundle.inputs`."""
        return self.bundle.inputs

    @property
    def statement(self) -> Statement:
        """As :attr:`Bundle.statement`."""
        return self.bundle.statement

    @property
    def statement_digest(self) -> StatementDigest:
        """As :attr:`Bundle.statement_digest`."""
        return self.place.statement

    @property
    def class_ids(self) -> tuple[ClassId, ...]:
        """As :attr:`Bundle.class_ids`."""
        return self.bundle.class_ids

    @property
    def entry_digests(self) -> tuple[EntryDigest, ...]:
        """As :attr:`Bundle.entry_digests`."""
        return self.bundle.entry_digests

    @property
    def labels(self) -> tuple[str, ...]:
        """As :attr:`Bundle.labels`."""
        return self.bundle.labels

    @property
    def tensors(self) -> Mapping[str, FloatArray]:
        """As :attr:`Bundle.tensors`."""
        return self.bundle.tensors

    def __len__(self) -> int:
        return len(self.bundle)

    def __repr__(self) -> str:
        return f"VerifiedBundle({self.model_id}, {len(self)} classes)"


def _make(**fields: object) -> VerifiedBundle:
    made = object.__new__(VerifiedBundle)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
