"""A damaged ledger: what is wrong with it, and how to go on with what is intact.

Owns the repair. Nothing is removed: a record is appended that vouches for the damaged bytes, so
that readers skip exactly those, and that keeps every class id still legible in them::

    examine_ledger(directory).problems
    repair_ledger(directory)                 # the record, or None if nothing was wrong
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import StateError
from pfm_edge_runtime.state._clock import Clock, read_clock
from pfm_edge_runtime.state._creation import read_key, read_trust
from pfm_edge_runtime.state._file import LedgerFile
from pfm_edge_runtime.state._layout import Layout, locked
from pfm_edge_runtime.state._ledger import Problem, encode_all
from pfm_edge_runtime.state._machine import machine_digest
from pfm_edge_runtime.state._records import AdoptRecord, InitRecord, Record, RepairRecord

__all__ = ["Examination", "examine_ledger", "repair_ledger"]

_CLASS_ID = re.compile(rb'"class_id":"([0-9a-f]{32})"')


@dataclass(frozen=True, slots=True)
class Examination:
    """How a ledger is.

    Attributes:
        records: Records that are intact.
        problems: What is wrong, one line each.
        torn_bytes: Length of a record at the end that a power cut tore; the next one replaces it.
    """

    records: int
    problems: tuple[str, ...]
    torn_bytes: int


def examine_ledger(directory: Path) -> Examination:
    """Look at a ledger; change nothing.

    Raises:
        StateMissingError: There is none.
        StateError: It cannot be read.
    """
    reading = LedgerFile(Layout(directory).ledger).examine().reading
    return Examination(
        len(reading.lines),
        tuple(f"line {each.line} {each.what}" for each in reading.problems),
        reading.torn_bytes,
    )


def repair_ledger(directory: Path, *, clock: Clock = read_clock) -> RepairRecord | None:
    """Vouch for all damage of a ledger.

    Returns:
        What was appended; ``None`` if nothing was wrong.

    Raises:
        StateMissingError: There is no ledger.
        StateError: It cannot be read, or the device's key is gone too.
        StorageError: The disk refused, and nothing changed.
    """
    layout = Layout(directory)
    examine_ledger(directory)  # before a lock file is made where there is no state
    with locked(layout):
        file = LedgerFile(layout.ledger)
        contents = file.examine()
        problems, lines = contents.reading.problems, contents.reading.lines
        if not problems:
            return None
        last = lines.last
        repair = RepairRecord(
            damage=tuple(each.damage for each in problems),
            forgotten=_legible(layout.ledger, problems),
            moment=clock(last.time if last else None),
        )
        records: list[Record] = [repair]
        if not any(line.kind in {InitRecord.kind, AdoptRecord.kind} for line in lines):
            records.append(_identity(layout, repair))
        file.accept(contents)
        file.append(encode_all(records, file.position))
    return repair


def _legible(path: Path, problems: Iterable[Problem]) -> tuple[ClassId, ...]:
    """Return the class ids in the damaged bytes: only records about forgotten classes have any."""
    found: dict[ClassId, None] = {}
    try:
        with path.open("rb") as file:
            for problem in problems:
                file.seek(problem.damage.offset)
                for match in _CLASS_ID.findall(file.read(problem.damage.length)):
                    found[ClassId(match.decode("ascii"))] = None
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
    return tuple(found)


def _identity(layout: Layout, repair: RepairRecord) -> AdoptRecord:
    """Say anew whose memory it is, where the damage has taken that."""
    trust = read_trust(layout)
    return AdoptRecord(
        device=read_key(layout).key_id,
        machine=None if trust is None else machine_digest(),
        managed=trust is not None,
        moment=repair.moment,
    )
