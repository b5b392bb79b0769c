"""What a device remembers about itself and its bundles: four kinds of records of its ledger.

Owns their fields, in both directions; those about forgotten classes are in ``_class_records``. A
record that exists is well formed::

    InitRecord(device=key_id(public), machine=None, managed=False, moment=read_clock())
"""

from dataclasses import dataclass
from typing import ClassVar

from pfm_edge_runtime._strict_json import JsonValue
from pfm_edge_runtime.bundle import ClassId, EntryDigest, StatementDigest
from pfm_edge_runtime.digest import is_digest
from pfm_edge_runtime.errors import StateError
from pfm_edge_runtime.keys import PublicKey
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.state._clock import Moment
from pfm_edge_runtime.state._fields import (
    HEX32,
    Fields,
    moment_fields,
    moment_from,
    public_key_from,
    require,
    require_hex,
)

__all__ = [
    "AdoptRecord",
    "Damage",
    "InitRecord",
    "InstallRecord",
    "Record",
    "RepairRecord",
]

_FORMAT = "pfm-ledger/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What every record has; the ledger fills it in when the record is on disk.

    Attributes:
        number: Its place in the ledger, from 1 up; 0 before it is there.
        digest: Its SHA-256 in hexadecimal, over every byte of the line before its own digest;
            the next record repeats it. Empty before it is there.
    """

    kind: ClassVar[str] = ""
    number: int = 0
    digest: str = ""

    def to_fields(self) -> dict[str, JsonValue]:
        """Return the fields of this kind as JSON values."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRecord(Record):
    """The device's memory begins.

    Attributes:
        device: Id of the device's key.
        machine: Stands for the machine that the state is bound to; ``None``: to none.
        managed: Whether whom to trust was set by ``pfm-device init``, and not by first use.
        moment: When.
    """

    kind: ClassVar[str] = "init"
    device: str
    machine: str | None
    managed: bool
    moment: Moment

    def __post_init__(self) -> None:
        require_hex(self.device, "device")
        if self.machine is not None:
            require_hex(self.machine, "machine")

    def to_fields(self) -> dict[str, JsonValue]:
        """Return the fields of this kind as JSON values."""
        return {
            "format": _FORMAT,
            "device": self.device,
            "machine": self.machine,
            "managed": self.managed,
            **moment_fields(self.moment),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "InitRecord":
        """Read the fields of this kind."""
        if fields.text("format") != _FORMAT:
            raise StateError("its format is not pfm-ledger/1: a newer pfm-edge-runtime wrote it")
        return cls(
            device=fields.text("device"),
            machine=fields.text_or_null("machine"),
            managed=fields.boolean("managed"),
            moment=moment_from(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptRecord(InitRecord):
    """The memory goes on under another key, on another machine, or under other trusted keys."""

    kind: ClassVar[str] = "adopt"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRecord(Record):
    """A bundle was verified and taken into use.

    Attributes:
        model_id: Its model.
        statement: Digest of its statement's payload.
        epoch: Its place in time: the pair of epoch and sequence only grows.
        sequence: As ``epoch``.
        absent: Digests of the listed entries that it came without, ascending.
        signers: Public keys whose signatures on it verify, ascending.
        moment: When.
    """

    kind: ClassVar[str] = "install"
    model_id: ModelId
    statement: StatementDigest
    epoch: int
    sequence: int
    absent: tuple[EntryDigest, ...]
    signers: tuple[PublicKey, ...]
    moment: Moment

    def __post_init__(self) -> None:
        require(is_digest(self.model_id), "model_id")
        require_hex(self.statement, "statement")
        require(self.epoch >= 1 and self.sequence >= 1, "epoch or sequence")
        for each in self.absent:
            require_hex(each, "absent")
        require(sorted(set(self.absent)) == list(self.absent), "absent")
        require(sorted(set(self.signers)) == list(self.signers), "signers")

    def to_fields(self) -> dict[str, JsonValue]:
        """Return the fields of this kind as JSON values."""
        return {
            "model_id": self.model_id,
            "statement": self.statement,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "absent": list(self.absent),
            "signers": [each.hex() for each in self.signers],
            **moment_fields(self.moment),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "InstallRecord":
        """Read the fields of this kind."""
        return cls(
            model_id=ModelId(fields.text("model_id")),
            statement=StatementDigest(fields.text("statement")),
            epoch=fields.integer("epoch"),
            sequence=fields.integer("sequence"),
            absent=tuple(EntryDigest(each) for each in fields.texts("absent")),
            signers=tuple(public_key_from(each) for each in fields.texts("signers")),
            moment=moment_from(fields),
        )


@dataclass(frozen=True, slots=True)
class Damage:
    """A piece of the ledger that readers skip.

    Attributes:
        offset: Where it begins, in bytes.
        length: Its length in bytes; 0 where whole records are missing.
        sha256: Of the damaged bytes, in hexadecimal: other bytes are not skipped.
    """

    offset: int
    length: int
    sha256: str

    def __post_init__(self) -> None:
        require(self.offset >= 0 and self.length >= 0, "damage")
        require_hex(self.sha256, "damage")

    @classmethod
    def from_fields(cls, fields: Fields) -> "Damage":
        """Read one piece."""
        found = cls(fields.integer("offset"), fields.integer("length"), fields.text("sha256"))
        fields.finish()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRecord(Record):
    """Somebody looked at the damage and decided to go on with what is intact.

    Attributes:
        damage: What to skip.
        forgotten: Class ids that were still legible in it. Only records about forgotten classes
            name a class, so these stay forgotten.
        moment: When.
    """

    kind: ClassVar[str] = "repair"
    damage: tuple[Damage, ...]
    forgotten: tuple[ClassId, ...]
    moment: Moment

    def __post_init__(self) -> None:
        for each in self.forgotten:
            require(HEX32.fullmatch(each) is not None, "forgotten")

    def to_fields(self) -> dict[str, JsonValue]:
        """Return the fields of this kind as JSON values."""
        return {
            "damage": [
                {"offset": each.offset, "length": each.length, "sha256": each.sha256}
                for each in self.damage
            ],
            "forgotten": list(self.forgotten),
            **moment_fields(self.moment),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "RepairRecord":
        """Read the fields of this kind."""
        return cls(
            damage=tuple(Damage.from_fields(each) for each in fields.objects("damage")),
            forgotten=tuple(ClassId(each) for each in fields.texts("forgotten")),
            moment=moment_from(fields),
        )
