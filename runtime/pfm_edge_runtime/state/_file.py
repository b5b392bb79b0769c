"""The file of the ledger: read as far as it goes, appended to whole or not at all.

Owns the bytes on the disk. It knows what it has read, and reads only what came after; what does
not go on from there is read again from the beginning::

    file = LedgerFile(layout.ledger)
    contents = file.read()
    file.accept(contents)
    file.moved()                      # False, until somebody appends
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from pfm_edge_runtime._disk import SUFFIX, mapped_errors, sync
from pfm_edge_runtime.errors import (
    StateError,
    StateMissingError,
    StateUnreadableError,
    StorageError,
)
from pfm_edge_runtime.state._layout import write_all
from pfm_edge_runtime.state._ledger import START, TAIL_BYTES, Position, Reading, read
from pfm_edge_runtime.store import without_waiting, write_atomic

__all__ = ["Contents", "LedgerFile", "UnsettledError"]

_CHUNK_BYTES = 2**17  # half of what a small core's cache holds
_FEW = 8  # more records than this are written at once
_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class UnsettledError(StorageError):
    """The disk refused a record, and to take it back: whether it is there is not known."""


class _Stamp(NamedTuple):
    """What one look at a file tells; two looks that agree saw the same records."""

    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in the file.

    Attributes:
        reading: What is in it, from where it was read.
        restarted: Whether that is the beginning, because it does not go on from what was read.
        stamp: How the file looked.
        tail: The end of the last record.
    """

    reading: Reading
    restarted: bool
    stamp: _Stamp
    tail: bytes


class LedgerFile:
    """A ledger on the disk, and how far it was read.

    Args:
        path: The file.
    """

    __slots__ = ("_durable", "_stamp", "_tail", "path", "position", "torn_bytes")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position: Position = START
        self.torn_bytes = 0
        self._stamp: _Stamp | None = None
        self._tail = b""
        self._durable = ""  # digest of the last record that is known to be on the disk

    def moved(self) -> bool:
        """Tell, by one look at the file, whether it is not what was last read."""
        try:
            return _stamp_of(os.stat(self.path)) != self._stamp  # noqa: PTH116 (one system call)
        except OSError:
            return True

    def read(self) -> Contents:
        """Read what came after the last record that was read; :meth:`accept` remembers it.

        Raises:
            StateMissingError: There is no such file.
            StateError: It cannot be read, or it is damaged.
        """
        found = self.examine()
        for problem in found.reading.problems:
            raise StateError(
                f"{self.path}: line {problem.line} (byte {problem.damage.offset}) {problem.what}; "
                "pfm-device doctor --repair goes on with the records that are intact"
            )
        return found

    def examine(self) -> Contents:
        """Read as :meth:`read` does, damage or not.

        Raises:
            StateMissingError: There is no such file.
            StateUnreadableError: It cannot be read.
        """
        try:
            with open(self.path, "rb", buffering=0, opener=without_waiting) as file:
                return self._read(file)
        except StateError as error:
            raise StateError(f"{self.path}: {error}") from error
        except FileNotFoundError as error:
            raise StateMissingError(
                f"{self.path.parent} holds no device state: make one with pfm-device init"
            ) from error
        except OSError as error:
            raise StateUnreadableError(
                f"{self.path} cannot be read: {error.strerror or error}"
            ) from error

    def accept(self, contents: Contents) -> None:
        """Remember that this was read."""
        self.position = contents.reading.end
        self.torn_bytes = contents.reading.torn_bytes
        self._stamp, self._tail = contents.stamp, contents.tail

    def confirm(self) -> None:
        """Put on the disk what was read, before anybody acts on it.

        A writer that was killed may have left a record in the page cache only: the bundle that is
        rewritten because of it would outlive it in a power cut.

        Raises:
            StorageError: The disk refused.
        """
        if self.position.head == self._durable:
            return
        try:
            sync(self.path)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be written: {error.strerror or error}; nothing changed"
            ) from error
        self._durable = self.position.head

    def append(self, lines: Sequence[bytes]) -> Contents:
        """Append records: all of them, or nothing changes.

        A few are synced one by one, in place. Many are written with what is there into a new file
        that takes the old one's place: it costs two syncs, however many there are, and a power cut
        cannot leave some of them. A torn record at the end goes first. The caller holds the lock
        and has read everything.

        Raises:
            StorageError: The disk refused, and nothing changed.
            UnsettledError: The disk refused, and to undo it too.
        """
        # Unless it ends well, the next look is a fresh one.
        start, self._stamp = self.position, None
        if len(lines) > _FEW:
            try:
                return self._replace(lines, start)
            except StorageError as error:
                self._require_unchanged(error)
            # A disk that has no room for a copy may have some for the records.
        try:
            descriptor = os.open(self.path, _APPEND)
            try:
                self._append(descriptor, lines)
                stamp = _stamp_of(os.fstat(descriptor))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be written: {error.strerror or error}; nothing changed"
            ) from error
        contents = _contents(read(lines, start), stamp, start, b"")
        self._durable = contents.reading.end.head
        return contents

    def _replace(self, lines: Sequence[bytes], start: Position) -> Contents:
        """Write the old records and the new ones into a file that takes the place of the old.

        Raises:
            StorageError: The disk refused, and nothing changed.
        """
        with mapped_errors(self.path):
            for leftover in self.path.parent.glob(f".{self.path.name}.*{SUFFIX}"):
                os.unlink(leftover)  # noqa: PTH108 (the fault tests count it)
            with open(self.path, "rb", opener=without_waiting) as file:
                old = file.read(start.offset)
            if len(old) != start.offset:
                raise StorageError(f"{self.path} changes while it is held: run this again")
        write_atomic(self.path, b"".join([old, *lines]))
        contents = _contents(read(lines, start), _stamp_of(os.stat(self.path)), start, b"")  # noqa: PTH116 (as above)
        self._durable = contents.reading.end.head
        return contents

    def _require_unchanged(self, error: StorageError) -> None:
        """Require that a replacement that failed has left what was read.

        Raises:
            UnsettledError: It has not, or nobody can tell.
        """
        expected = self.position.offset + self.torn_bytes
        with suppress(OSError):
            if os.stat(self.path).st_size == expected:  # noqa: PTH116 (one system call)
                return
        raise UnsettledError(str(error)) from error

    def _append(self, descriptor: int, lines: Sequence[bytes]) -> None:
        end = self.position.offset
        if self.position.number == 1:
            sync(self.path.parent)  # should a failing disk have left that undone when it was made
        if self.torn_bytes:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        try:
            for line in lines:
                write_all(descriptor, line)
                os.fsync(descriptor)
        except BaseException as error:
            try:
                os.ftruncate(descriptor, end)
                os.fsync(descriptor)
            except OSError:
                raise UnsettledError(
                    f"{self.path} could not be written, and the disk refused to undo that: it is "
                    "not known whether the record is there; mend the disk and run this again"
                ) from error
            raise

    def _read(self, file: FileIO) -> Contents:
        stamp, start, tail = _stamp_of(os.fstat(file.fileno())), self.position, self._tail
        if self._stamp is None or stamp[:2] != self._stamp[:2]:
            start, tail = START, b""
        file.seek(start.offset - len(tail))
        if file.read(len(tail)) != tail:
            start, tail = START, b""
        file.seek(start.offset)
        reading = read(iter(partial(file.read, _CHUNK_BYTES), b""), start)
        if reading.problems and start != START:  # the message names the line from the beginning
            file.seek(0)
            start, tail = START, b""
            reading = read(iter(partial(file.read, _CHUNK_BYTES), b""), start)
        # The size is what was read: what came after the look at the file is not missed later.
        return _contents(reading, stamp._replace(size=file.tell()), start, tail)


def _stamp_of(found: os.stat_result) -> _Stamp:
    return _Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _contents(reading: Reading, stamp: _Stamp, start: Position, tail: bytes) -> Contents:
    last = reading.lines.last
    if last is not None:
        tail = last.text[1 - TAIL_BYTES :] + b"\n"
    return Contents(reading, start == START, stamp, tail)
