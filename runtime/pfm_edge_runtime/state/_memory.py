"""What the ledger amounts to: the memory that verification and forgetting ask.

Owns the fold over the ledger's lines. A memory never changes; the next record makes another one::

    memory = Memory.of(reading.lines)
    class_id in memory.tombstones, memory.floors.get(model_id)
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, cast

from pfm_edge_runtime.bundle import ClassId, EntryDigest, Place, StatementDigest, TrustedKeys
from pfm_edge_runtime.errors import StateError
from pfm_edge_runtime.keys import PublicKey
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.state._class_records import (
    AbsentRecord,
    ErasedRecord,
    Order,
    TombstoneRecord,
)
from pfm_edge_runtime.state._fields import public_key_from
from pfm_edge_runtime.state._glance import (
    ABSENT,
    ERASED,
    INSTALL,
    TOMBSTONE,
    Line,
    Lines,
    glance,
    texts_of,
)
from pfm_edge_runtime.state._ledger import NOTHING, decode
from pfm_edge_runtime.state._records import InitRecord, Record, RepairRecord

__all__ = ["Memory"]

# Class id and statement in one text: a tuple would be one more thing for the garbage collector.
_Pair: TypeAlias = str
_ID_LENGTH = 32
_NONE: frozenset[EntryDigest] = frozenset()
_UNSEEN = b'"bundle":null'  # in an absent record of a device that could not look


@dataclass(frozen=True, slots=True, repr=False)
class Memory:
    """All that a device remembers, at one moment.

    Attributes:
        number: Number of the last record.
        head: Its digest.
        time: When it was written, as ``Moment.time``.
        identity: The last record that says whose memory this is.
        tombstones: Forgotten classes, for every model, with the number of their first record.
        floors: The highest place that was installed for each model.
        absences: For each statement that was installed, the listed entries that are known to be
            gone: those it came without, and those that were forgotten since.
        pins: For each model, who signed its first signed install; nobody if there was none yet.
    """

    number: int
    head: str
    time: str
    identity: InitRecord
    tombstones: Mapping[ClassId, int]
    floors: Mapping[ModelId, Place]
    absences: Mapping[StatementDigest, frozenset[EntryDigest]]
    pins: Mapping[ModelId, frozenset[PublicKey]]
    _came_without: Mapping[StatementDigest, frozenset[EntryDigest]]
    _forgotten: Mapping[StatementDigest, frozenset[EntryDigest]]
    _open: Mapping[_Pair, bytes]
    _erased: Mapping[_Pair, bytes]
    _absent: Mapping[str, bytes]

    @classmethod
    def of(cls, lines: Lines) -> "Memory":
        """Fold a whole ledger.

        Raises:
            StateError: A record cannot be used, or none says whose memory it is.
        """
        return _Fold().add(lines).memory()

    def after(self, lines: Lines) -> "Memory":
        """Fold in what was appended.

        Raises:
            StateError: A record cannot be used.
        """
        return _Fold(self).add(lines).memory()

    @property
    def pending(self) -> Mapping[StatementDigest, tuple[TombstoneRecord, ...]]:
        """Tombstones without an ``erased`` record, by statement, in the ledger's order."""
        found: dict[StatementDigest, list[TombstoneRecord]] = {}
        for text in self._open.values():
            record = _decoded(text)
            if isinstance(record, TombstoneRecord):
                found.setdefault(record.statement, []).append(record)
        return MappingProxyType({key: tuple(value) for key, value in found.items()})

    def erased(
        self, class_id: ClassId, statement: StatementDigest | None = None
    ) -> ErasedRecord | None:
        """Return the first record that the class is gone, if there is one.

        Args:
            class_id: The class.
            statement: Digest of the statement that listed it; ``None`` for any.
        """
        if statement is not None:
            text = self._erased.get(class_id + statement)
        else:
            found = (text for pair, text in self._erased.items() if pair[:_ID_LENGTH] == class_id)
            text = next(found, None)
        record = None if text is None else _decoded(text)
        return record if isinstance(record, ErasedRecord) else None

    def erasures(self) -> Iterator[ErasedRecord]:
        """Yield the first ``erased`` record of each class and statement, in the ledger's order."""
        for text in self._erased.values():
            record = _decoded(text)
            if isinstance(record, ErasedRecord):
                yield record

    def absent(self, class_id: ClassId) -> AbsentRecord | None:
        """Return the record that the class was forgotten and not here, if there is one.

        The first that a bundle was looked at for; failing that, the first.
        """
        text = self._absent.get(class_id)
        record = None if text is None else _decoded(text)
        return record if isinstance(record, AbsentRecord) else None

    @property
    def unseen(self) -> frozenset[ClassId]:
        """Classes that were forgotten while no bundle could be looked at: no receipt says so."""
        return frozenset(
            ClassId(class_id)
            for class_id, text in self._absent.items()
            if _UNSEEN in text and self.erased(ClassId(class_id)) is None
        )

    def receipts(self, after: int = 0) -> Iterator[AbsentRecord | ErasedRecord]:
        """Yield the records that a receipt is made of, in the ledger's order.

        Args:
            after: Only those whose number is higher.
        """
        found = (glance(each) for some in (self._erased, self._absent) for each in some.values())
        lines = [each for each in found if each is not None and each.number > after]
        for line in sorted(lines, key=lambda each: each.number):
            record = decode(line)
            if isinstance(record, ErasedRecord) or (
                isinstance(record, AbsentRecord) and record.bundle is not None
            ):
                yield record

    def order_of(self, class_id: ClassId) -> Order | None:
        """Return who asked for a class to be forgotten, as the first record of it says."""
        absent = self.absent(class_id)
        if absent is not None:
            return absent.order
        erased = self.erased(class_id)
        return None if erased is None else erased.order

    def trust_for(self, model_id: ModelId, managed: TrustedKeys | None) -> TrustedKeys | None:
        """Return whose signatures count for a model.

        Args:
            model_id: The model.
            managed: Whom the device was told to trust, if it was told.

        Returns:
            ``None`` for a model that is new to a device that was not told.
        """
        if managed is not None:
            return managed
        pinned = self.pins.get(model_id)
        return None if pinned is None else TrustedKeys(len(pinned), pinned)


class _Fold:
    """A memory in the making."""

    def __init__(self, base: Memory | None = None) -> None:
        self.base = base
        self.identity = None if base is None else base.identity
        self.tombstones: dict[str, int] = (
            {} if base is None else dict(cast("Mapping[str, int]", base.tombstones))
        )
        self.floors = {} if base is None else dict(base.floors)
        self.pins = {} if base is None else dict(base.pins)
        self.came_without = {} if base is None else dict(base._came_without)
        self.installed: set[str] = set()
        self.forgotten: defaultdict[str, list[str]] = defaultdict(list)
        self.open = {} if base is None else dict(base._open)
        self.erased = {} if base is None else dict(base._erased)
        self.absent = {} if base is None else dict(base._absent)
        self.last: Line | None = None

    def add(self, lines: Lines) -> "_Fold":
        """Fold in lines, in order; those that come by the thousand without a call for each."""
        tombstones, erased, waiting, forgotten = (
            self.tombstones,
            self.erased,
            self.open,
            self.forgotten,
        )
        for seen, text in zip(lines.seen, lines.texts, strict=True):
            if seen[0] == "tombstone" and seen[5]:
                class_id, entry_digest, statement = seen[TOMBSTONE]
                tombstones.setdefault(class_id, int(seen[1]))
                forgotten[statement].append(entry_digest)
                if (pair := class_id + statement) not in erased:
                    waiting.setdefault(pair, text)
            elif seen[0] == "erased" and seen[9]:
                class_id, entry_digest, statement, number = seen[ERASED]
                if waiting.pop(pair := class_id + statement, None) is None:
                    # Another file of the same class, or damage has taken the tombstone.
                    tombstones.setdefault(class_id, int(number))
                    forgotten[statement].append(entry_digest)
                erased.setdefault(pair, text)
            elif seen[0] == "install" and seen[15]:
                self._install(*seen[INSTALL])
            elif seen[0] == "absent" and seen[16]:
                (class_id,) = seen[ABSENT]
                tombstones.setdefault(class_id, int(seen[1]))
                if _UNSEEN in self.absent.get(class_id, _UNSEEN):
                    self.absent[class_id] = text
            else:
                self._other(Line(seen, text))
        self.last = lines.last
        return self

    def memory(self) -> Memory:
        """Return what it amounts to."""
        if self.identity is None:
            raise StateError(
                "no record says whose memory it is: put a backup of it back, or, if this device "
                "never forgot a class, remove it and run pfm-device init"
            )
        forgotten = {} if self.base is None else dict(self.base._forgotten)
        for digest, digests in self.forgotten.items():
            statement, gone = StatementDigest(digest), cast("list[EntryDigest]", digests)
            forgotten[statement] = forgotten.get(statement, _NONE).union(gone)
        last = self.last
        return Memory(
            number=last.number if last else self.base.number if self.base else 0,
            head=last.digest if last else self.base.head if self.base else NOTHING,
            time=last.time if last else self.base.time if self.base else "",
            identity=self.identity,
            tombstones=MappingProxyType(cast("dict[ClassId, int]", self.tombstones)),
            floors=MappingProxyType(self.floors),
            absences=MappingProxyType(self._absences(forgotten)),
            pins=MappingProxyType(self.pins),
            _came_without=self.came_without,
            _forgotten=forgotten,
            _open=self.open,
            _erased=self.erased,
            _absent=self.absent,
        )

    def _absences(
        self, forgotten: Mapping[StatementDigest, frozenset[EntryDigest]]
    ) -> dict[StatementDigest, frozenset[EntryDigest]]:
        known = {} if self.base is None else self.base.absences
        changed = self.forgotten.keys() | self.installed
        return {
            statement: absent | forgotten.get(statement, _NONE)
            if statement in changed or statement not in known
            else known[statement]
            for statement, absent in self.came_without.items()
        }

    def _install(
        self, absent: str, epoch: str, model: str, sequence: str, signers: str, digest: str
    ) -> None:
        statement, model_id = StatementDigest(digest), ModelId(model)
        self.installed.add(statement)
        place = Place(int(epoch), int(sequence), statement)
        floor = self.floors.get(model_id)
        if floor is None or (place.epoch, place.sequence) > (floor.epoch, floor.sequence):
            self.floors[model_id] = place
        came_without = (EntryDigest(each) for each in texts_of(absent))
        self.came_without[statement] = self.came_without.get(statement, _NONE).union(came_without)
        if not self.pins.get(model_id):
            self.pins[model_id] = frozenset(public_key_from(each) for each in texts_of(signers))

    def _other(self, line: Line) -> None:
        record = decode(line)
        if isinstance(record, InitRecord):
            self.identity = record
        elif isinstance(record, RepairRecord):
            for class_id in record.forgotten:
                self.tombstones.setdefault(class_id, line.number)
            # A lost tombstone would make the bundle without its class look tampered with. What
            # each statement came without is learnt once more; floors and tombstones stay.
            self.came_without.clear()
        else:
            raise StateError(f"record {line.number} cannot be used: it is not spelt as we spell it")


def _decoded(text: bytes) -> Record | None:
    line = glance(text)
    return None if line is None else decode(line)
