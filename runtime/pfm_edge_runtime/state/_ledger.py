"""The ledger: one line for each record, each holding the digest of the one before.

Owns bytes to lines and back; what a line means is the business of others::

    data = encode(record, number=1, previous=NOTHING)
    reading = read([data], START)
    reading.lines.last.kind, reading.end.number        # "init", 1

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
from pfm_edge_runtime.state._class_records import AbsentRecord, ErasedRecord, TombstoneRecord
from pfm_edge_runtime.state._fields import Fields
from pfm_edge_runtime.state._glance import Line, Lines, glance, glance_all
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
        AbsentRecord,
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

    lines: Lines
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
    number, head, lines = after.number, after.head or NOTHING, []
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


def read(chunks: Iterable[bytes], start: Position) -> Reading:
    """Take a ledger apart, from ``start`` on.

    Args:
        chunks: The bytes behind ``start``, in pieces of any length; 128 KiB suit the caches.
        start: What was read before; ``START`` for a whole ledger.

    Raises:
        StateError: A line verifies, but is in no form that this version knows.
    """
    reader, unfinished = _Reader(start), b""
    for chunk in chunks:
        data = unfinished + chunk
        cut = data.rfind(b"\n") + 1
        unfinished = data[cut:]
        reader.take(data[:cut])
    end, problems = reader.end, reader.problems
    if (
        not unfinished
        and problems
        and problems[-1].line == end.lines
        and problems[-1].damage.length
    ):
        # The last line does not verify: torn, with its end on disk but not all that is before it.
        return Reading(reader.lines, reader.left(problems[:-1]), reader.before, reader.last_bytes)
    return Reading(reader.lines, reader.left(problems), end, len(unfinished))


class _Reader:
    """Follows the chain."""

    def __init__(self, start: Position) -> None:
        self.lines = Lines([], [])
        self.problems: list[Problem] = []
        self.end = start
        self.before = start  # the last line
        self.last_bytes = 0

    def take(self, data: bytes) -> None:
        """Verify whole lines: all at once, or one by one if anything is wrong with any."""
        pieces = data.split(b"\n")
        pieces.pop()
        if not self._take_intact(data, pieces):
            for piece in pieces:
                self._take_one(piece)

    def left(self, problems: list[Problem]) -> tuple[Problem, ...]:
        """Return the problems that no repair vouches for."""
        vouched: set[Damage] = set()
        for line in self.lines if problems else ():
            if line.kind == RepairRecord.kind:
                record = decode(line)
                vouched.update(record.damage if isinstance(record, RepairRecord) else ())
        return tuple(each for each in problems if each.damage not in vouched)

    def _take_intact(self, data: bytes, pieces: list[bytes]) -> bool:
        """Verify lines that are as they should be, in a tenth of the time of a closer look."""
        end, seen = self.end, glance_all(data)
        if len(seen) != len(pieces) or not seen or not end.head:
            return False
        digests = [sha256(piece[:_MARK_AT]).hexdigest() for piece in pieces]
        if (
            digests != [each[-1] for each in seen]
            or [end.head, *digests[:-1]] != [each[2] for each in seen]
            or [each[1] for each in seen] != [str(end.number + n + 1) for n in range(len(seen))]
        ):
            return False
        self.lines.seen.extend(seen)
        self.lines.texts.extend(pieces)
        count = len(pieces)
        self.end = Position(
            end.offset + len(data), end.lines + count, end.number + count, digests[-1]
        )
        return True

    def _take_one(self, piece: bytes) -> None:
        """Verify one line; the chain goes on behind a damaged one wherever it says it is."""
        self.before, end = self.end, self.end
        self.last_bytes = len(piece) + 1
        offset, number = end.offset + self.last_bytes, end.lines + 1
        digest = sha256(piece[:_MARK_AT]).hexdigest()
        line = glance(piece)
        if line is None and piece.endswith(b"%b%b%b" % (_MARK, digest.encode("ascii"), _END)):
            raise StateError(
                f"line {number} is in no form that is known: a newer pfm-edge-runtime wrote it"
            )
        if line is None or line.digest != digest:
            damage = Damage(end.offset, self.last_bytes, sha256(piece + b"\n").hexdigest())
            self.problems.append(Problem(number, damage, "is damaged"))
            self.end = Position(offset, number, end.number, "")
            return
        if end.head and (line.number != end.number + 1 or line.previous != end.head):
            damage = Damage(end.offset, 0, sha256(b"").hexdigest())
            what = f"does not follow record {end.number}: records are missing, or there twice"
            self.problems.append(Problem(number, damage, what))
        self.lines.seen.append(line.seen)
        self.lines.texts.append(piece)
        self.end = Position(offset, number, max(line.number, end.number), digest)
