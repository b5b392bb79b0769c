"""The ledger: one line for each record, each holding the digest of the one before.

Owns bytes to lines and back; what a line means is the business of others::

    data = encode(record, number=1, previous=NOTHING)
    reading = read(data, START)
    reading.lines[0].kind, reading.end.number          # "init", 1

A line is canonical JSON with the keys ``kind``, ``number``, ``previous``, ``record`` and
``sha256``. The last is the digest of all bytes of the line before ``,"sha256":``, so it covers
what is stored and nothing need be encoded again to check it. A last line that does not end or does
not verify was torn by a power cut: it is left out. Anything else that is wrong is a problem, which
a ``repair`` record may vouch for.

The chain detects accidents. Whoever may write the file can write another chain.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse_canonical,
)
from pfm_edge_runtime.errors import StateError
from pfm_edge_runtime.state._class_records import ErasedRecord, TombstoneRecord
from pfm_edge_runtime.state._fields import Fields
from pfm_edge_runtime.state._glance import Line, glance, glance_all
from pfm_edge_runtime.state._records import (
    AdoptRecord,
    Damage,
    InitRecord,
    InstallRecord,
    Record,
    RepairRecord,
)

__all__ = [
    "NOTHING",
    "START",
    "TAIL_BYTES",
    "Position",
    "Problem",
    "Reading",
    "decode",
    "encode",
    "encode_all",
    "read",
]

NOTHING = "0" * 64
"""What the first record names as the digest of the one before it."""

_MARK = b',"sha256":"'
_END = b'"}'
_DIGEST_AT = -64 - len(_END)
_MARK_AT = _DIGEST_AT - len(_MARK)
TAIL_BYTES = 1 - _MARK_AT
"""The end of a line, from ``,"sha256":`` to its line feed: it stands for all that came before."""

_LIMITS = JsonLimits(max_bytes=2**21, max_depth=4, max_containers=20_000)
_HEADER = {"kind", "number", "previous", "record", "sha256"}
_KINDS: dict[str, Callable[[Fields], Record]] = {
    each.kind: each.from_fields
    for each in (
        InitRecord,
        AdoptRecord,
        InstallRecord,
        TombstoneRecord,
        ErasedRecord,
        RepairRecord,
    )
}


class Position(NamedTuple):
    """How far a ledger was read.

    Attributes:
        offset: Bytes.
        lines: Lines, damaged ones too.
        number: Number of the last record.
        head: Digest of the last record; empty after damage, where nobody knows it.
    """

    offset: int
    lines: int
    number: int
    head: str


START = Position(0, 0, 0, NOTHING)


class Problem(NamedTuple):
    """Something that is wrong with the ledger.

    Attributes:
        line: Which line it is, from 1 up.
        damage: Its bytes; none where records are missing before that line.
        what: What is wrong with it.
    """

    line: int
    damage: Damage
    what: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What is in a piece of a ledger.

    Attributes:
        lines: The lines that verify, in order.
        problems: What no repair vouches for.
        end: Where the last line ends; the next record goes there.
        torn_bytes: Length of a torn record behind it.
    """

    lines: tuple[Line, ...]
    problems: tuple[Problem, ...]
    end: Position
    torn_bytes: int


def encode(record: Record, *, number: int, previous: str) -> bytes:
    """Write a record as the line that follows the one with digest ``previous``.

    Raises:
        StateError: It is longer than a line may be.
    """
    fields: dict[str, JsonValue] = {
        "kind": record.kind,
        "number": number,
        "previous": previous,
        "record": record.to_fields(),
    }
    try:
        covered = canonical(fields)[: -len(b"}")]
    except StrictJsonError as error:
        raise StateError(f"a record of kind {record.kind} {error}") from error
    if len(covered) > _LIMITS.max_bytes - TAIL_BYTES:
        raise StateError(f"a record of kind {record.kind} is longer than a ledger's line may be")
    digest = sha256(covered).hexdigest()
    return b"%b%b%b%b\n" % (covered, _MARK, digest.encode("ascii"), _END)


def encode_all(records: Iterable[Record], after: Position) -> list[bytes]:
    """Write records as the lines that follow ``after``.

    Raises:
        StateError: One is longer than a line may be.
    """
    number, head, lines = after.number, after.head, []
    for record in records:
        number += 1
        lines.append(encode(record, number=number, previous=head))
        head = lines[-1][_DIGEST_AT - 1 : -len(_END) - 1].decode("ascii")
    return lines


def decode(line: Line) -> Record:
    """Return the record of a line, checked in every field.

    Raises:
        StateError: It is none, or of a kind that this version does not know.
    """
    try:
        record = _decode(line)
    except (StateError, StrictJsonError) as error:
        raise StateError(f"record {line.number} cannot be used: {error}") from error
    return replace(record, number=line.number, digest=line.digest)


def _decode(line: Line) -> Record:
    value = parse_canonical(line.text, _LIMITS)
    if not isinstance(value, dict) or value.keys() != _HEADER:
        raise StateError("it has other keys than a record")
    if line.kind not in _KINDS:
        raise StateError(f"kind {line.kind} is unknown: a newer pfm-edge-runtime wrote it")
    fields = Fields(value["record"])
    record = _KINDS[line.kind](fields)
    fields.finish()
    return record


def read(data: bytes, start: Position) -> Reading:
    """Take a ledger apart, from ``start`` on.

    Args:
        data: The bytes behind ``start``.
        start: What was read before; ``START`` for a whole ledger.
    """
    pieces = data.split(b"\n")
    unfinished = pieces.pop()
    length = len(data) - len(unfinished)
    lines = _intact(data[:length], pieces, start)
    if lines is not None:
        head = lines[-1].digest if lines else start.head
        end = Position(
            start.offset + length, start.lines + len(lines), start.number + len(lines), head
        )
        return Reading(tuple(lines), (), end, len(unfinished))
    return _read_carefully(pieces, unfinished, start)


def _intact(data: bytes, pieces: list[bytes], start: Position) -> list[Line] | None:
    """Return the lines of a piece without any fault, in a third of the time of a careful look."""
    lines = glance_all(data, pieces)
    if lines is None or not start.head:
        return None
    digests = [sha256(piece[:_MARK_AT]).hexdigest() for piece in pieces]
    seen = [line.seen for line in lines]
    follows = (
        digests == [each[-1] for each in seen]
        and [start.head, *digests[:-1]] == [each[2] for each in seen]
        and all(int(each[1]) == number for number, each in enumerate(seen, start.number + 1))
    )
    return lines if follows or not lines else None


def _read_carefully(pieces: list[bytes], unfinished: bytes, start: Position) -> Reading:
    """Find out what is wrong, line by line."""
    reader = _Reader(start)
    for piece in pieces:
        reader.take(piece)
    lines, problems, end = reader.lines, reader.problems, reader.end
    if (
        not unfinished
        and problems
        and problems[-1].damage.length
        and problems[-1].line == end.lines
    ):
        # The last line does not verify: torn, with its end on disk but not all that is before it.
        end, unfinished = reader.before, pieces[-1] + b"\n"
        problems.pop()
    vouched = {each for line in lines if line.kind == RepairRecord.kind for each in _damage(line)}
    left = tuple(each for each in problems if each.damage not in vouched)
    return Reading(tuple(lines), left, end, len(unfinished))


def _damage(line: Line) -> Iterable[Damage]:
    record = decode(line)
    return record.damage if isinstance(record, RepairRecord) else ()


class _Reader:
    """Follows the chain, line by line."""

    def __init__(self, start: Position) -> None:
        self.lines: list[Line] = []
        self.problems: list[Problem] = []
        self.end = start
        self.before = start

    def take(self, piece: bytes) -> None:
        """Verify one line; the chain goes on behind a damaged one wherever it says it is."""
        self.before, end = self.end, self.end
        offset = end.offset + len(piece) + 1
        digest = sha256(piece[:_MARK_AT]).hexdigest()
        line = glance(piece)
        if line is None or line.digest != digest:
            damage = Damage(end.offset, len(piece) + 1, sha256(piece + b"\n").hexdigest())
            self.problems.append(Problem(end.lines + 1, damage, "is damaged"))
            self.end = Position(offset, end.lines + 1, end.number, "")
            return
        if end.head and (line.number != end.number + 1 or line.previous != end.head):
            damage = Damage(end.offset, 0, sha256(b"").hexdigest())
            what = f"does not follow record {end.number}: records are missing, or there twice"
            self.problems.append(Problem(end.lines + 1, damage, what))
        self.lines.append(line)
        self.end = Position(offset, end.lines + 1, max(line.number, end.number), digest)
