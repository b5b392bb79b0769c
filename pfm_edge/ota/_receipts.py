"""Receipts as they lie in a folder: read, verified with the enrolled keys, sorted out.

Owns what is believed of them::

    found = read_receipts(Path("receipts"), enrolled)
    found.statements            # of enrolled devices, verified, each once
    found.unknown               # how many came from keys that nobody enrolled, by key id
    found.duplicated            # devices that stated two things at one place of their ledger

A receipt says which number of its device's ledger it was made of, and the head of the ledger there.
Of one device no number can have two heads, unless two machines share a key or one was set back; and
a later receipt cannot have a lower number.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge_runtime._strict_json import canonical
from pfm_edge_runtime.dsse import Envelope
from pfm_edge_runtime.errors import EnvelopeError, PfmEdgeError, StorageError
from pfm_edge_runtime.keys import PublicKey
from pfm_edge_runtime.receipts import verify_receipt

__all__ = ["FoundReceipts", "Progress", "Statement", "read_receipts"]

_MAX_BYTES = 1 << 17
_TYPE = "application/vnd.in-toto+json"
_SUFFIX = ".json"
_RIGHT = "synchronized"

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, order=True)
class Statement:
    """What an enrolled device stated in a receipt that verifies.

    Attributes:
        device: Id of its key.
        number: Number of the record in its ledger.
        head: Digest of the ledger there.
        class_id: The class.
        outcome: ``"erased"``, or ``"absent"``: it was not there.
        time: When, by the device's clock.
        clock: What the device knew of that clock.
        order_id: The order that the device names; empty if it names none.
        file: The receipt's name.
    """

    device: str
    number: int
    head: str
    class_id: str
    outcome: str
    time: str
    clock: str
    order_id: str
    file: str


@dataclass(frozen=True, slots=True)
class FoundReceipts:
    """What a folder of receipts holds.

    Attributes:
        statements: Of enrolled devices; each once.
        repeated: Receipts that were there before, and are not counted.
        unknown: How many receipts came from each key that is not enrolled.
        unreadable: Why a file is no valid receipt, by its name.
        duplicated: Devices with two different records at one place of their ledger.
        regressed: Devices whose ledger went back: a later receipt has a lower number.
    """

    statements: tuple[Statement, ...]
    repeated: int
    unknown: Mapping[str, int]
    unreadable: Mapping[str, str]
    duplicated: tuple[str, ...]
    regressed: tuple[str, ...]

    @property
    def doubtful(self) -> frozenset[str]:
        """Devices whose receipts contradict each other: they count for nothing."""
        return frozenset((*self.duplicated, *self.regressed))


def read_receipts(
    folder: Path, enrolled: Mapping[str, PublicKey], progress: Progress | None = None
) -> FoundReceipts:
    """Read a folder of receipts, with all that is below it.

    Args:
        folder: Files that end in ``.json``, in any case.
        enrolled: Public keys by key id.
        progress: Told how many files are read of how many.

    Raises:
        StorageError: The folder cannot be read.
    """
    files = _files(folder)
    statements: dict[Statement, None] = {}
    seen: Counter[tuple[str, int, str]] = Counter()
    unknown: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    for done, path in enumerate(files, start=1):
        name = _shown(path.relative_to(folder))
        try:
            found = _read(path, name, enrolled)
        except PfmEdgeError as error:
            unreadable[name] = _shown(error)
        else:
            if isinstance(found, str):
                unknown[found] += 1
            else:
                key = (found.device, found.number, found.head)
                seen[key] += 1
                if seen[key] == 1:
                    statements[found] = None
        if progress is not None:
            progress(done, len(files), "")
    by_device = _by_device(tuple(sorted(statements)))
    return FoundReceipts(
        statements=tuple(sorted(statements)),
        repeated=seen.total() - len(seen),
        unknown=dict(sorted(unknown.items())),
        unreadable=unreadable,
        duplicated=tuple(each for each, made in by_device.items() if _duplicated(made)),
        regressed=tuple(each for each, made in by_device.items() if _regressed(made)),
    )


def _files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise StorageError(f"{error.filename}: cannot be read ({error.strerror})") from error

    walk = os.walk(folder, onerror=refuse)
    return sorted(
        Path(root, name)
        for root, _, names in walk
        for name in names
        if name.lower().endswith(_SUFFIX) and not name.startswith(".")
    )


def _shown(given: object) -> str:
    """Write a name, whoever chose it, so that it steers no terminal and turns no line around."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(given))


def _read(path: Path, name: str, enrolled: Mapping[str, PublicKey]) -> Statement | str:
    """Read one receipt; the id of its key alone, if nobody enrolled that."""
    data = read_whole(path, most=_MAX_BYTES, error=StorageError)
    envelope = _envelope(data.strip())
    key_ids = [each.key_id for each in envelope.signatures]
    if not key_ids:
        raise EnvelopeError("nobody signed it")
    known = next((each for each in key_ids if each in enrolled), None)
    if known is None:
        envelope.signers()
        return key_ids[0]
    record = verify_receipt(data, enrolled[known]).record
    return Statement(
        device=record.device,
        number=record.number,
        head=record.digest,
        class_id=record.class_id,
        outcome=record.kind,
        time=record.moment.time,
        clock=record.moment.clock,
        order_id="" if record.order is None else record.order.id,
        file=name,
    )


def _envelope(data: bytes) -> Envelope:
    """Take a receipt apart; one that something between the device and here wrote anew is refused.

    What such a thing changes is not known, so that what is left is no evidence.
    """
    try:
        return Envelope.parse(data, payload_type=_TYPE)
    except EnvelopeError as error:
        if _was_written_anew(data):
            raise EnvelopeError(
                "it was changed on its way: it must be the very bytes that the device sent"
            ) from error
        raise


def _was_written_anew(data: bytes) -> bool:
    try:
        Envelope.parse(canonical(json.loads(data)), payload_type=_TYPE)
    except (EnvelopeError, RecursionError, ValueError):
        return False
    return True


def _by_device(statements: Iterable[Statement]) -> dict[str, list[Statement]]:
    found: dict[str, list[Statement]] = {}
    for each in statements:
        found.setdefault(each.device, []).append(each)
    return found


def _duplicated(statements: list[Statement]) -> bool:
    return len({each.number for each in statements}) < len(statements)


def _regressed(statements: list[Statement]) -> bool:
    """Tell whether a later record has a lower number.

    Only clocks that a time server had set say what is later: one that was ever ahead, and then set
    right, would make an honest device's ledger look as if it had gone back, for good.
    """
    timed = sorted(_timed(statements))
    highest = 0
    before, now = "", 0
    for time, number in timed:
        if time != before:
            highest, before = max(highest, now), time
        now = max(now, number)
        if number < highest:
            return True
    return False


def _timed(statements: list[Statement]) -> Iterator[tuple[str, int]]:
    return ((each.time, each.number) for each in statements if each.clock == _RIGHT)
