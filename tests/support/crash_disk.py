"""A disk that loses power: what POSIX lets survive of the calls that a recording holds.

Owns the model. A file has its synced bytes and, in the page cache, writes that may reach the disk
or not; a directory has its synced entries and changes that may reach the disk or not, in any
choice::

    for point in crash_points(recording):
        point.image.write_to(empty_directory)
        # … and now open what lies there, as a device does after the power came back

What it takes for granted, as every journalling file system gives it: ``fsync`` of a file makes
its bytes and its length durable and nothing else, not even its name; ``fsync`` of a directory
makes its entries durable, not the bytes of what they name; a rename within one directory happens
or does not. Nothing more: no order between two directory operations or two writes that were not
synced, no length that waits for its bytes, no write that is torn only at a block's border.
"""

# ruff: noqa: PTH101, PTH102 (the modes of what lies there are part of the image)

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from random import Random

from tests.support.disk_events import (
    Entries,
    Entry,
    Event,
    Inode,
    Mode,
    Recording,
    Resize,
    Snapshot,
    Sync,
    Write,
)

_EVERY_CHOICE = 4  # of that many pending directory operations every subset is tried
_SAMPLED = 12  # of more, these many at random besides the telling ones
_MOST_IMAGES = 160  # of one moment; more are sampled

_Change = Sequence[Entry]
_Pending = Write | Resize


@dataclass(frozen=True, slots=True)
class Image:
    """What is on a disk after the power is gone.

    Attributes:
        tree: What the names lead to.
        remains: Bytes of files that no name leads to any more, or yet.
    """

    tree: Snapshot
    remains: tuple[bytes, ...]

    def write_to(self, directory: Path) -> None:
        """Make it real in an empty directory; two names of one file are that again."""
        made: dict[Inode, str] = {}
        for name, inode in self.tree.paths().items():
            path = f"{directory}/{name}"
            if inode in made:
                os.link(made[inode], path)
                continue
            if inode in self.tree.directories:
                os.mkdir(path)
            else:
                Path(path).write_bytes(self.tree.files[inode])
            os.chmod(path, self.tree.modes[inode])
            made[inode] = path

    def fingerprint(self) -> bytes:
        """Return a digest of all that an observer could tell two images apart by."""
        digest = hashlib.sha256()
        numbers: dict[Inode, int] = {}
        for path, inode in self.tree.paths().items():
            number = numbers.setdefault(inode, len(numbers))
            content = self.tree.files.get(inode)
            size = -1 if content is None else len(content)
            mode = self.tree.modes[inode]
            digest.update(f"{path}\0{number} {size} {mode}\n".encode() + (content or b""))
        for content in sorted(self.remains):
            digest.update(f"-{len(content)}\n".encode() + content)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Point:
    """One disk that power loss may leave.

    Attributes:
        image: What is on it.
        steps: The most steps after which power loss may still leave it.
        how: The step it followed, and what became of what was not synced.
    """

    image: Image
    steps: int
    how: str


def crash_points(recording: Recording, *, seed: int = 0) -> list[Point]:
    """Return every distinct disk that power loss may leave, at every moment of the recording.

    Two moments that leave the same disk count once, with the later moment: what a disk must hold
    only ever grows.
    """
    found: dict[bytes, Point] = {}
    disk = CrashDisk(recording.start)
    random = Random(seed)
    moments = [("the start", None), *((str(step), step.event) for step in recording.steps)]
    for steps, (after, event) in enumerate(moments):
        if event is not None:
            disk.apply(event)
        for how, image in disk.images(random):
            found[image.fingerprint()] = Point(image, steps, f"after {after}: {how}")
    return list(found.values())


class CrashDisk:
    """What is durable and what is not, while events are replayed."""

    def __init__(self, start: Snapshot) -> None:
        self._files = dict(start.files)
        self._directories = {inode: dict(names) for inode, names in start.directories.items()}
        self._modes = dict(start.modes)
        self._written: dict[Inode, list[_Pending]] = {}
        self._named: list[_Change] = []

    def apply(self, event: Event) -> None:
        """Let one event happen: in memory, or for a :class:`Sync`, on the disk."""
        match event:
            case Write(inode=inode) | Resize(inode=inode):
                self._written.setdefault(inode, []).append(event)
            case Mode(inode, mode):
                self._modes[inode] = mode
            case Sync(inode) if inode in self._directories:
                pending = [change for change in self._named if change[0].directory == inode]
                self._named = [each for each in self._named if each[0].directory != inode]
                _rename_all(self._directories, pending)
            case Sync(inode):
                self._files[inode] = _replay(self._files[inode], self._written.pop(inode, []))
            case Entries():
                self._enter(event)

    def in_memory(self) -> Snapshot:
        """Return what a process sees: all of it, durable or not."""
        contents = {
            inode: _replay(self._files[inode], pending) for inode, pending in self._written.items()
        }
        return self._image(contents, self._named).tree

    def images(self, random: Random) -> Iterator[tuple[str, Image]]:
        """Yield what power loss may leave now, and what became of what was not synced."""
        choices = list(product(self._contents(random), _subsets(self._named, random)))
        if len(choices) > _MOST_IMAGES:
            telling = [each for each in choices if each[0][0] in {"kept", "lost"}]
            rest = [each for each in choices if each not in telling]
            choices = telling + random.sample(rest, max(0, _MOST_IMAGES - len(telling)))
        for (data, contents), named in choices:
            names = f"{len(named)} of {len(self._named)} directory operations"
            yield f"data {data}, {names}", self._image(contents, named)

    def _enter(self, event: Entries) -> None:
        by_directory: dict[Inode, list[Entry]] = {}
        for change in event.changes:
            by_directory.setdefault(change.directory, []).append(change)
            inode = change.inode
            if inode is not None and inode not in self._directories and inode not in self._files:
                if event.new_directory:
                    self._directories[inode] = {}
                else:
                    self._files[inode] = b""
        self._named.extend(by_directory.values())

    def _contents(self, random: Random) -> list[tuple[str, Mapping[Inode, bytes]]]:
        """Return what may be left of the files that have writes pending; one first: ``kept``."""
        survivors = {
            inode: _survivors(self._files[inode], pending)
            for inode, pending in self._written.items()
        }
        ways = dict.fromkeys(way for each in survivors.values() for way in each) or {"kept": None}
        found = [
            (way, {inode: each.get(way, each["kept"]) for inode, each in survivors.items()})
            for way in ways
        ]
        if len(survivors) > 1:
            for inode in survivors:
                others = {other: each["kept"] for other, each in survivors.items()}
                found.append((f"of {inode} lost", others | {inode: survivors[inode]["lost"]}))
            for _ in range(_SAMPLED):
                mixed = {
                    inode: random.choice([*each.values()]) for inode, each in survivors.items()
                }
                found.append(("mixed", mixed))
        return found

    def _image(self, contents: Mapping[Inode, bytes], named: Iterable[_Change]) -> Image:
        directories = {inode: dict(names) for inode, names in self._directories.items()}
        _rename_all(directories, named)
        tree = Snapshot({**self._files, **contents}, directories, self._modes)
        reachable = set(tree.paths().values())
        remains = tuple(
            content for inode, content in tree.files.items() if content and inode not in reachable
        )
        return Image(tree, remains)


def _rename_all(directories: Mapping[Inode, dict[str, Inode]], changes: Iterable[_Change]) -> None:
    for change in changes:
        for entry in change:
            if entry.inode is None:
                directories[entry.directory].pop(entry.name, None)
            else:
                directories[entry.directory][entry.name] = entry.inode


def _subsets(pending: Sequence[_Change], random: Random) -> list[Sequence[_Change]]:
    """Return choices of the operations, each in the order of time; all of them first."""
    count = len(pending)
    numbers = range(count)
    if count <= _EVERY_CHOICE:
        chosen = [each for size in (*numbers, count) for each in combinations(numbers, size)]
    else:
        chosen = [tuple(numbers[:size]) for size in (*numbers, count)]
        chosen += [tuple(n for n in numbers if n != left_out) for left_out in numbers]
        chosen += [(n,) for n in numbers]
        chosen += [tuple(n for n in numbers if random.random() < 0.5) for _ in range(_SAMPLED)]
    distinct = sorted(set(chosen), key=lambda each: (-len(each), each))
    return [[pending[number] for number in each] for each in distinct]


def _survivors(stored: bytes, pending: Sequence[_Pending]) -> dict[str, bytes]:
    """Return what may be left of a file's bytes, by what happened."""
    kept = _replay(stored, pending)
    found = {
        "kept": kept,
        "lost": stored,
        "zeros": stored[: len(kept)].ljust(len(kept), b"\0"),  # the length came first
    }
    *before, last = pending
    for number in range(len(before)):
        found[f"without write {number}"] = _replay(
            stored, [*pending[:number], *pending[number + 1 :]]
        )
    if isinstance(last, Write):
        size = len(last.data)
        quarters = {size // 4, size // 2, size - size // 4}
        for cut in sorted({1, *quarters, size - 1} - {0, size, -1}):
            torn = Write(last.inode, last.offset, last.data[:cut])
            found[f"torn at byte {cut}"] = _replay(stored, [*before, torn])
        for cut in sorted(quarters - {0, size}):
            end = Write(last.inode, last.offset + cut, last.data[cut:])
            found[f"only from byte {cut} on"] = _replay(stored, [*before, end])
    return found


def _replay(stored: bytes, pending: Iterable[_Pending]) -> bytes:
    content = bytearray(stored)
    for each in pending:
        if isinstance(each, Resize):
            del content[each.size :]
            content.extend(bytes(each.size - len(content)))
        else:
            content.extend(bytes(max(0, each.offset - len(content))))
            content[each.offset : each.offset + len(each.data)] = each.data
    return bytes(content)
