"""What a device remembers about the classes that it forgot: three kinds of records of its ledger.

Owns their fields, in both directions. They say nothing about a class but its random id and the
digest of its salted entry: no label, no image, no score::

    TombstoneRecord(
        class_id=class_id, model_id=model_id, statement=statement,
        entry_digest=entry_digest, order=None, moment=state.moment(),
    )
"""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from pfm_edge_runtime._strict_json import JsonValue
from pfm_edge_runtime.bundle import ClassId, EntryDigest, StatementDigest
from pfm_edge_runtime.digest import is_digest
from pfm_edge_runtime.erasure import OldBytes
from pfm_edge_runtime.errors import StateError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.state._clock import Moment
from pfm_edge_runtime.state._fields import (
    HEX32,
    Fields,
    moment_fields,
    moment_from,
    require,
    require_hex,
)
from pfm_edge_runtime.state._records import Record

__all__ = ["AbsentRecord", "ErasedRecord", "Order", "TombstoneRecord"]

_METHODS = {"overwritten", "unlinked", "unknown"}
# What needs no escape in JSON: `_glance` reads these lines without a parser.
_ORDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
_PLAIN = re.compile(r"[A-Za-z0-9 ._:/@+#=,~-]{1,200}")


@dataclass(frozen=True, slots=True)
class Order:
    """Who asked for a forget.

    Attributes:
        id: The order's own number or random id; never a label.
        digest: SHA-256 of the order as it arrived, in hexadecimal, if it was a file.
    """

    id: str
    digest: str | None = None

    def __post_init__(self) -> None:
        if _ORDER_ID.fullmatch(self.id) is None:
            raise StateError(
                "an order's id has 1 to 64 letters, digits and . _ : / - only: receipts repeat it, "
                "so it must not be anybody's words"
            )
        if self.digest is not None:
            require_hex(self.digest, "order")


@dataclass(frozen=True, slots=True, kw_only=True)
class TombstoneRecord(Record):
    """A class is forgotten: once this record is on disk the class is never served again.

    Attributes:
        class_id: The class.
        model_id: The model that it was forgotten in.
        statement: Digest of the statement that listed it.
        entry_digest: Digest of its entry.
        order: Who asked, if it was not somebody at the device.
        moment: When.
    """

    kind: ClassVar[str] = "tombstone"
    class_id: ClassId
    model_id: ModelId
    statement: StatementDigest
    entry_digest: EntryDigest
    order: Order | None = None
    moment: Moment

    def __post_init__(self) -> None:
        _require_class(self)

    def to_fields(self) -> dict[str, JsonValue]:
        """Return the fields of this kind as JSON values."""
        return {
            "class_id": self.class_id,
            "model_id": self.model_id,
            "statement": self.statement,
            "entry_digest": self.entry_digest,
            "order": _order_fields(self.order),
            **moment_fields(self.moment),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "TombstoneRecord":
        """Read the fields of this kind."""
        return cls(
            class_id=ClassId(fields.text("class_id")),
            model_id=ModelId(fields.text("model_id")),
            statement=StatementDigest(fields.text("statement")),
            entry_digest=EntryDigest(fields.text("entry_digest")),
            order=_order(fields.object_or_null("order")),
            moment=moment_from(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedRecord(Record):
    """A forgotten class is gone from the disk; all that its receipt says is here.

    Attributes:
        class_id: The class.
        model_id: The model that it was forgotten in.
        statement: Digest of the statement that listed it.
        entry_digest: Digest of its entry.
        tombstone: Number of its tombstone.
        order: As in its tombstone.
        bundle: SHA-256 of the file of the bundle without it, in hexadecimal.
        old_bytes: What was done to the file of the bundle with it.
        device: Id of the device's key at that time.
        software: Name and version of what did it.
        moment: When.
    """

    kind: ClassVar[str] = "erased"
    class_id: ClassId
    model_id: ModelId
    statement: StatementDigest
    entry_digest: EntryDigest
    tombstone: int
    order: Order | None = None
    bundle: str
    old_bytes: OldBytes
    device: str
    software: str
    moment: Moment

    def __post_init__(self) -> None:
        _require_class(self)
        require(self.tombstone >= 1, "tombstone")
        require_hex(self.bundle, "bundle")
        require_hex(self.device, "device")
        require(self.old_bytes.method in _METHODS, "old_bytes")
        require(_PLAIN.fullmatch(self.old_bytes.file_system) is not None, "old_bytes")
        require(_PLAIN.fullmatch(self.software) is not None, "software")

    def to_fields(self) -> dict[str, JsonValue]:
        """Return the fields of this kind as JSON values."""
        old = self.old_bytes
        return {
            "class_id": self.class_id,
            "model_id": self.model_id,
            "statement": self.statement,
            "entry_digest": self.entry_digest,
            "tombstone": self.tombstone,
            "order": _order_fields(self.order),
            "bundle": self.bundle,
            "old_bytes": {
                "method": old.method,
                "file_system": old.file_system,
                "in_place": old.in_place,
            },
            "device": self.device,
            "software": self.software,
            **moment_fields(self.moment),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "ErasedRecord":
        """Read the fields of this kind."""
        return cls(
            class_id=ClassId(fields.text("class_id")),
            model_id=ModelId(fields.text("model_id")),
            statement=StatementDigest(fields.text("statement")),
            entry_digest=EntryDigest(fields.text("entry_digest")),
            tombstone=fields.integer("tombstone"),
            order=_order(fields.object_or_null("order")),
            bundle=fields.text("bundle"),
            old_bytes=_old_bytes(fields.object("old_bytes")),
            device=fields.text("device"),
            software=fields.text("software"),
            moment=moment_from(fields),
        )

    @classmethod
    def from_json(cls, value: JsonValue, number: int, digest: str) -> "ErasedRecord":
        """Read a record from outside of a ledger, as a receipt repeats it.

        Raises:
            StateError: It is none.
        """
        require(type(number) is int and number >= 1, "number")
        require_hex(digest, "digest")
        fields = Fields(value)
        record = replace(cls.from_fields(fields), number=number, digest=digest)
        fields.finish()
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentRecord(Record):
    """A class is forgotten that was not here: tombstone and receipt in one.

    Attributes:
        class_id: The class; it is never served, whatever bundle brings it.
        model_id: The model that was looked at; ``None`` if there was no package to look at.
        bundle: SHA-256 of the file of the bundle that lacks it, in hexadecimal; ``None`` if there
            was none that could be read: then it is a tombstone, and no receipt.
        order: Who asked.
        device: Id of the device's key at that time.
        software: Name and version of what looked.
        moment: When.
    """

    kind: ClassVar[str] = "absent"
    class_id: ClassId
    model_id: ModelId | None
    bundle: str | None
    order: Order | None = None
    device: str
    software: str
    moment: Moment

    def __post_init__(self) -> None:
        require(HEX32.fullmatch(self.class_id) is not None, "class_id")
        require(self.model_id is None or is_digest(self.model_id), "model_id")
        if self.bundle is not None:
            require(self.model_id is not None, "model_id")
            require_hex(self.bundle, "bundle")
        require_hex(self.device, "device")
        require(_PLAIN.fullmatch(self.software) is not None, "software")

    def to_fields(self) -> dict[str, JsonValue]:
        """Return the fields of this kind as JSON values."""
        return {
            "class_id": self.class_id,
            "model_id": self.model_id,
            "bundle": self.bundle,
            "order": _order_fields(self.order),
            "device": self.device,
            "software": self.software,
            **moment_fields(self.moment),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "AbsentRecord":
        """Read the fields of this kind."""
        model_id = fields.text_or_null("model_id")
        return cls(
            class_id=ClassId(fields.text("class_id")),
            model_id=None if model_id is None else ModelId(model_id),
            bundle=fields.text_or_null("bundle"),
            order=_order(fields.object_or_null("order")),
            device=fields.text("device"),
            software=fields.text("software"),
            moment=moment_from(fields),
        )

    @classmethod
    def from_json(cls, value: JsonValue, number: int, digest: str) -> "AbsentRecord":
        """Read a record from outside of a ledger, as :meth:`ErasedRecord.from_json` does."""
        require(type(number) is int and number >= 1, "number")
        require_hex(digest, "digest")
        fields = Fields(value)
        record = replace(cls.from_fields(fields), number=number, digest=digest)
        fields.finish()
        return record


def _require_class(record: TombstoneRecord | ErasedRecord) -> None:
    require(HEX32.fullmatch(record.class_id) is not None, "class_id")
    require(is_digest(record.model_id), "model_id")
    require_hex(record.statement, "statement")
    require_hex(record.entry_digest, "entry_digest")


def _order_fields(order: Order | None) -> JsonValue:
    return None if order is None else {"id": order.id, "digest": order.digest}


def _order(fields: Fields | None) -> Order | None:
    if fields is None:
        return None
    found = Order(fields.text("id"), fields.text_or_null("digest"))
    fields.finish()
    return found


def _old_bytes(fields: Fields) -> OldBytes:
    found = OldBytes(
        fields.text("method"), fields.text("file_system"), fields.boolean_or_null("in_place")
    )
    fields.finish()
    return found
