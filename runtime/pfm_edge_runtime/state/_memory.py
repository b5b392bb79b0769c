"""What the ledger amounts to: the memory that verification and forgetting ask.

Owns the fold over the ledger's lines. A memory never changes; the next record makes another one::

    memory = Memory.of(reading.lines)
    class_id in memory.tombstones, memory.floors.get(model_id)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from pfm_edge_runtime.bundle import ClassId, EntryDigest, Place, StatementDigest, TrustedKeys
from pfm_edge_runtime.errors import StateError
from pfm_edge_runtime.keys import PublicKey
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.state._class_records import ErasedRecord, TombstoneRecord
from pfm_edge_runtime.state._fields import public_key_from
from pfm_edge_runtime.state._glance import ERASED, INSTALL, TOMBSTONE, Line, texts_of
from pfm_edge_runtime.state._ledger import NOTHING, decode
from pfm_edge_runtime.state._records import InitRecord, InstallRecord, RepairRecord

__all__ = ["Memory"]

_Pair: TypeAlias = tuple[ClassId, StatementDigest]
_NONE: frozenset[EntryDigest] = frozenset()


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
    _open: Mapping[_Pair, Line]
    _erased: Mapping[_Pair, Line]
    _first_erased: Mapping[ClassId, Line]

    @classmethod
    def of(cls, lines: Iterable[Line]) -> "Memory":
        """Fold a whole ledger.

        Raises:
            StateError: A record cannot be used, or none says whose memory it is.
        """
        return _Fold().add(lines).memory()

    def after(self, lines: Iterable[Line]) -> "Memory":
        """Fold in what was appended.

        Raises:
            StateError: A record cannot be used.
        """
        return _Fold(self).add(lines).memory()

    @property
    def pending(self) -> Mapping[StatementDigest, tuple[TombstoneRecord, ...]]:
        """Tombstones without an ``erased`` record, by statement, in the ledger's order."""
        found: dict[StatementDigest, list[TombstoneRecord]] = {}
        for (_, statement), line in self._open.items():
            record = decode(line)
            if isinstance(record, TombstoneRecord):
                found.setdefault(statement, []).append(record)
        return MappingProxyType({key: tuple(value) for key, value in found.items()})

    def erased(
        self, class_id: ClassId, statement: StatementDigest | None = None
    ) -> ErasedRecord | None:
        """Return the first record that the class is gone, if there is one.

        Args:
            class_id: The class.
            statement: Digest of the statement that listed it; ``None`` for any.
        """
        if statement is None:
            line = self._first_erased.get(class_id)
        else:
            line = self._erased.get((class_id, statement))
        return None if line is None else _erased(line)

    def erasures(self) -> Iterator[ErasedRecord]:
        """Yield the first ``erased`` record of each class and statement, in the ledger's order."""
        for line in self._erased.values():
            yield _erased(line)

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
        self.number = 0 if base is None else base.number
        self.identity = None if base is None else base.identity
        self.tombstones = {} if base is None else dict(base.tombstones)
        self.floors = {} if base is None else dict(base.floors)
        self.pins = {} if base is None else dict(base.pins)
        self.came_without = {} if base is None else dict(base._came_without)
        self.forgotten: dict[StatementDigest, list[EntryDigest]] = {}
        self.open = {} if base is None else dict(base._open)
        self.erased = {} if base is None else dict(base._erased)
        self.first_erased = {} if base is None else dict(base._first_erased)
        self.last: Line | None = None

    def add(self, lines: Iterable[Line]) -> "_Fold":
        """Fold in lines, in order."""
        for line in lines:
            if line.kind == TombstoneRecord.kind:
                self._tombstone(line)
            elif line.kind == ErasedRecord.kind:
                self._erased(line)
            elif line.kind == InstallRecord.kind:
                self._install(line)
            else:
                self._other(line)
            self.last = line
            self.number = max(self.number, line.number)
        return self

    def memory(self) -> Memory:
        """Return what it amounts to."""
        if self.identity is None:
            raise StateError(
                "no record says whose memory it is: put a backup of it back, or, if this device "
                "never forgot a class, remove it and run pfm-device init"
            )
        forgotten = {} if self.base is None else dict(self.base._forgotten)
        for statement, digests in self.forgotten.items():
            forgotten[statement] = forgotten.get(statement, _NONE).union(digests)
        last = self.last
        return Memory(
            number=self.number,
            head=last.digest if last else self.base.head if self.base else NOTHING,
            time=last.time if last else self.base.time if self.base else "",
            identity=self.identity,
            tombstones=MappingProxyType(self.tombstones),
            floors=MappingProxyType(self.floors),
            absences=MappingProxyType(
                {
                    statement: absent | forgotten.get(statement, _NONE)
                    for statement, absent in self.came_without.items()
                }
            ),
            pins=MappingProxyType(self.pins),
            _came_without=self.came_without,
            _forgotten=forgotten,
            _open=self.open,
            _erased=self.erased,
            _first_erased=self.first_erased,
        )

    def _tombstone(self, line: Line) -> None:
        class_id, entry_digest, statement = _seen(line, TOMBSTONE)
        pair = ClassId(class_id), StatementDigest(statement)
        self.tombstones.setdefault(pair[0], line.number)
        self.forgotten.setdefault(pair[1], []).append(EntryDigest(entry_digest))
        if pair not in self.erased:
            self.open.setdefault(pair, line)

    def _erased(self, line: Line) -> None:
        class_id, entry_digest, statement, tombstone = _seen(line, ERASED)
        pair = ClassId(class_id), StatementDigest(statement)
        # It implies the tombstone, should damage have taken that.
        self.tombstones.setdefault(pair[0], int(tombstone))
        self.forgotten.setdefault(pair[1], []).append(EntryDigest(entry_digest))
        self.open.pop(pair, None)
        self.erased.setdefault(pair, line)
        self.first_erased.setdefault(pair[0], line)

    def _install(self, line: Line) -> None:
        absent, epoch, model, sequence, signers, digest = _seen(line, INSTALL)
        statement, model_id = StatementDigest(digest), ModelId(model)
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


def _erased(line: Line) -> ErasedRecord:
    record = decode(line)
    if not isinstance(record, ErasedRecord):
        raise StateError(f"record {line.number} is of kind {line.kind}")
    return record


def _seen(line: Line, where: slice) -> tuple[str, ...]:
    """Return the fields that a glance saw.

    Raises:
        StateError: The line is spelt in a way that no version of this program writes.
    """
    found = line.seen[where]
    if not found[-1]:
        decode(line)
        raise StateError(f"record {line.number} cannot be used: it is not spelt as we spell it")
    return found
