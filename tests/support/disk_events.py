"""What a disk holds and what changes it: the words that the recorder and the model share.

A :class:`Snapshot` is a tree by inode, so that hard links are seen; an :data:`Event` is one change
to it, so that what happened can be replayed in another order, or in part::

    snapshot = take_snapshot(tmp_path)
    snapshot.contents()          # {"model": None, "model/manifest.json": b"…"}
"""

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NewType

Inode = NewType("Inode", int)
ROOT = Inode(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory now means an inode, or (``None``) nothing."""

    directory: Inode
    name: str
    inode: Inode | None


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries that change together: one call, of which half cannot happen in one directory."""

    changes: tuple[Entry, ...]
    new_directory: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    inode: Inode
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    inode: Inode
    size: int


@dataclass(frozen=True, slots=True)
class Mode:
    inode: Inode
    mode: int


@dataclass(frozen=True, slots=True)
class Sync:
    inode: Inode


Event = Entries | Write | Resize | Mode | Sync


@dataclass(frozen=True, slots=True)
class Step:
    """A call that returned: its name, the path it was given or its descriptor has, its effect."""

    call: str
    path: str
    event: Event

    def __str__(self) -> str:
        return f"{self.call} {self.path}"


@dataclass(slots=True)
class Snapshot:
    """A directory tree: files with their bytes, directories with their entries, by inode."""

    files: dict[Inode, bytes] = field(default_factory=dict)
    directories: dict[Inode, dict[str, Inode]] = field(default_factory=dict)
    modes: dict[Inode, int] = field(default_factory=dict)

    def paths(self) -> dict[str, Inode]:
        """Return the inode of every path; directories before what they hold."""
        found: dict[str, Inode] = {}
        waiting = [("", ROOT)]
        while waiting:
            prefix, directory = waiting.pop()
            for name, inode in sorted(self.directories[directory].items()):
                found[prefix + name] = inode
                if inode in self.directories:
                    waiting.append((f"{prefix}{name}/", inode))
        return found

    def contents(self) -> dict[str, bytes | None]:
        """Return the bytes of every path; ``None`` for a directory."""
        return {path: self.files.get(inode) for path, inode in self.paths().items()}


@dataclass(slots=True)
class Recording:
    """A tree as it was, and the calls that changed it."""

    start: Snapshot
    steps: list[Step] = field(default_factory=list)


def take_snapshot(root: Path, numbers: dict[tuple[int, int], Inode] | None = None) -> Snapshot:
    """Read a real tree; ``numbers`` receives the inode that each of the system's got here."""
    numbers = {} if numbers is None else numbers
    snapshot = Snapshot()
    found = root.stat()
    numbers[found.st_dev, found.st_ino] = ROOT
    snapshot.modes[ROOT] = stat.S_IMODE(found.st_mode)
    waiting = [(root, ROOT)]
    while waiting:
        folder, directory = waiting.pop()
        entries = snapshot.directories.setdefault(directory, {})
        for path in sorted(folder.iterdir()):
            found = path.lstat()
            key = found.st_dev, found.st_ino
            known = key in numbers
            inode = numbers.setdefault(key, Inode(len(numbers)))
            entries[path.name] = inode
            snapshot.modes[inode] = stat.S_IMODE(found.st_mode)
            if stat.S_ISDIR(found.st_mode):
                waiting.append((path, inode))
            elif not known:
                assert stat.S_ISREG(found.st_mode), f"{path}: only files and directories"
                snapshot.files[inode] = path.read_bytes()
    return snapshot
