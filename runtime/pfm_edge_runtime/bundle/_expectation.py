"""What a device knows before it reads a bundle: its keys, its floor, and what it has forgotten.

Owns the words in which the device's memory speaks to the verification. Nothing here comes from the
package that the bundle lies in::

    expectation = Expectation(
        binding=ModelBinding(manifest.model_id, manifest_digest, manifest.bundle_inputs),
        trust=TrustedKeys(threshold=1, keys=frozenset({issuer})),
        floor=None,
        tombstones=frozenset(),
        absences={},
    )
"""

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NewType

from pfm_edge_runtime.bundle._entries import ClassId
from pfm_edge_runtime.bundle._statement import EntryDigest
from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.keys import PublicKey
from pfm_edge_runtime.manifest import ModelId

__all__ = [
    "Expectation",
    "ModelBinding",
    "Place",
    "StatementDigest",
    "TrustedKeys",
    "statement_digest",
]

StatementDigest = NewType("StatementDigest", str)
"""Lower-case hexadecimal SHA-256 of the bytes of a statement's payload."""


def statement_digest(payload: bytes) -> StatementDigest:
    """Digest the payload of a statement, as stored."""
    return StatementDigest(hashlib.sha256(payload).hexdigest())


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
class TrustedKeys:
    """Whose signatures count, and how many of them are needed.

    Attributes:
        threshold: So many different keys must have signed. 0, with no keys, takes a bundle that
            nobody signed.
        keys: The keys, told apart by their bytes.
    """

    threshold: int
    keys: frozenset[PublicKey]

    def __post_init__(self) -> None:
        least = 1 if self.keys else 0
        if not least <= self.threshold <= len(self.keys):
            raise ConfigError(
                f"a threshold of {self.threshold} makes no sense with {len(self.keys)} trusted "
                f"keys: give {least} to {len(self.keys)}"
            )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a statement stands among all those of one model.

    Attributes:
        epoch: The pair of ``epoch`` and ``sequence`` only grows.
        sequence: As ``epoch``.
        statement: Which statement it is; one pair belongs to one statement.
    """

    epoch: int
    sequence: int
    statement: StatementDigest


@dataclass(frozen=True, slots=True)
class Expectation:
    """All that the device knows before it reads the bundle.

    Attributes:
        binding: The package that the bundle must be for.
        trust: Whose signatures count; ``None`` on first use, when there is nobody to trust yet
            and every signature that is there must verify.
        floor: The highest place that this device has installed for this model.
        tombstones: Classes that were forgotten on this device, for every model.
        absences: For each statement that was installed before, the listed entries that this
            device knows to be gone. A statement that is not there was never installed.
    """

    binding: ModelBinding
    trust: TrustedKeys | None = None
    floor: Place | None = None
    tombstones: AbstractSet[ClassId] = frozenset()
    absences: Mapping[StatementDigest, AbstractSet[EntryDigest]] = field(default_factory=dict)
