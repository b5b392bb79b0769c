"""A recorder of every call that changes a directory tree, and of the tree it began with.

What it writes down are facts of a file system (this inode got these bytes, this name now means
that inode), so that :mod:`tests.support.crash_disk` can replay them on a disk that loses power::

    with recorded(tmp_path) as recording:
        write_atomic(tmp_path / "data", b"new")
    [str(step) for step in recording.steps]     # "open .data.….tmp", "write .data.….tmp", …

It hooks the names of the os module. A write that goes past them is not missed: leaving the block
compares the replayed tree with the real one, and ``test_strace.py`` with the system calls.
"""

# ruff: noqa: PTH115, PTH118
# (system calls by name: they are what is recorded)

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support.crash_disk import CrashDisk
from tests.support.disk_events import (
    ROOT,
    Entries,
    Entry,
    Event,
    Inode,
    Mode,
    Recording,
    Resize,
    Snapshot,
    Step,
    Sync,
    Write,
    take_snapshot,
)


@contextmanager
def recorded(
    root: Path, also: Callable[[Step], None] | None = None, *, known: Snapshot | None = None
) -> Iterator[Recording]:
    """Record every change below ``root`` until the block ends, however it ends.

    Args:
        root: An existing directory. All that is in it now counts as durable.
        also: Called after each step, before its call returns to the caller; it may not return.
        known: The tree that was made real there, if its inodes shall keep their numbers.
    """
    recorder = _Recorder(Path(os.path.realpath(root)), also, known)
    with recorder.hooked():
        yield recorder.recording
    _require_nothing_missed(recorder)


class _Recorder:
    def __init__(
        self, root: Path, also: Callable[[Step], None] | None, known: Snapshot | None
    ) -> None:
        self.root = root
        self.numbers: dict[tuple[int, int], Inode] = {}
        start = take_snapshot(root, self.numbers)
        if known is not None:
            paths = known.paths()
            renumbered = {inode: paths[path] for path, inode in start.paths().items()}
            renumbered[ROOT] = ROOT
            self.numbers = {key: renumbered[inode] for key, inode in self.numbers.items()}
            start = known
        self.recording = Recording(start)
        self._also = also
        self._next = 1 + max(start.modes)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, hook in _HOOKS.items():
                wrapper = _wrapped(self, hook, getattr(os, name))
                stack.enter_context(mock.patch.object(os, name, wrapper))
            for name in _NOT_MODELLED:
                wrapper = _refusing(self, name, getattr(os, name))
                stack.enter_context(mock.patch.object(os, name, wrapper))
            yield

    def of(self, path: Any, dir_fd: int | None = None) -> Inode | None:
        """Return the inode of a path or a descriptor, unless it lies elsewhere."""
        try:
            found = _status(path, dir_fd)
        except OSError:
            return None
        return self.numbers.get((found.st_dev, found.st_ino))

    def place(self, path: Any, dir_fd: int | None = None) -> tuple[Inode, str] | None:
        """Return the directory and the name of a path, unless it lies elsewhere."""
        folder, name = os.path.split(os.fsdecode(os.fspath(path)))
        directory = self.of(os.path.realpath(folder or ".") if dir_fd is None else dir_fd)
        assert dir_fd is None or not folder, "a path below a descriptor: not modelled"
        return None if directory is None else (directory, name)

    def born(self, path: Any, dir_fd: int | None = None) -> Inode:
        """Number what was just made: the system may have used its inode number before."""
        found = _status(path, dir_fd)
        inode = Inode(self._next)
        self._next += 1
        self.numbers[found.st_dev, found.st_ino] = inode
        self.recording.start.modes[inode] = stat.S_IMODE(found.st_mode)
        return inode

    def log(self, call: str, path: Any, event: Event, dir_fd: int | None = None) -> None:
        if isinstance(path, int):
            where = _path_of(path)
        elif dir_fd is not None:
            where = os.path.join(_path_of(dir_fd), path)
        else:
            folder, name = os.path.split(os.fsdecode(os.fspath(path)))
            where = os.path.join(os.path.realpath(folder or "."), name)
        step = Step(call, os.path.relpath(where, self.root), event)
        self.recording.steps.append(step)
        if self._also is not None:
            self._also(step)


def _status(path: Any, dir_fd: int | None) -> os.stat_result:
    if isinstance(path, int):
        return os.fstat(path)
    return os.stat(path, dir_fd=dir_fd, follow_symlinks=False)


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")


_Hook = Callable[..., Any]


def _wrapped(recorder: _Recorder, hook: _Hook, real: _Hook) -> _Hook:
    def call(*args: Any, **kwargs: Any) -> Any:
        return hook(recorder, real, *args, **kwargs)

    return call


def _refusing(recorder: _Recorder, name: str, real: _Hook) -> _Hook:
    """Let a call through that the model does not know, unless it touches the tree."""

    def call(*args: Any, **kwargs: Any) -> Any:
        touched = [each for each in args if isinstance(each, int | str | Path | bytes)]
        for each in touched:
            inside = recorder.of(each) is not None
            if not inside and not isinstance(each, int):
                inside = recorder.place(each) is not None
            assert not inside, f"os.{name} is not modelled"
        return real(*args, **kwargs)

    return call


def _open(
    recorder: _Recorder,
    real: _Hook,
    path: Any,
    flags: int,
    mode: int = 0o777,
    *,
    dir_fd: int | None = None,
) -> int:
    place = recorder.place(path, dir_fd) if flags & os.O_CREAT else None
    existed = recorder.of(path, dir_fd)
    descriptor: int = real(path, flags, mode, dir_fd=dir_fd)
    if place is not None and existed is None:
        inode = recorder.born(descriptor)
        recorder.log("open", descriptor, Entries((Entry(*place, inode),)))
    elif existed is not None and flags & os.O_TRUNC:
        recorder.log("open", descriptor, Resize(existed, 0))
    return descriptor


def _write(recorder: _Recorder, real: _Hook, descriptor: int, data: Any) -> int:
    inode = recorder.of(descriptor)
    if inode is None:
        return int(real(descriptor, data))
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
        offset = os.fstat(descriptor).st_size
    else:
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
    count = int(real(descriptor, data))
    written = bytes(memoryview(data).cast("B")[:count])
    recorder.log("write", descriptor, Write(inode, offset, written))
    return count


def _pwrite(recorder: _Recorder, real: _Hook, descriptor: int, data: Any, offset: int) -> int:
    count = int(real(descriptor, data, offset))
    inode = recorder.of(descriptor)
    if inode is not None:
        written = bytes(memoryview(data).cast("B")[:count])
        recorder.log("pwrite", descriptor, Write(inode, offset, written))
    return count


def _resize(recorder: _Recorder, real: _Hook, target: Any, size: int) -> None:
    real(target, size)
    inode = recorder.of(target)
    if inode is not None:
        recorder.log("ftruncate", target, Resize(inode, size))


def _sync(recorder: _Recorder, real: _Hook, descriptor: int) -> None:
    real(descriptor)
    inode = recorder.of(descriptor)
    if inode is not None:
        recorder.log("fsync", descriptor, Sync(inode))


def _chmod(recorder: _Recorder, real: _Hook, target: Any, mode: int, **kwargs: Any) -> None:
    real(target, mode, **kwargs)
    inode = recorder.of(target)
    if inode is not None:
        recorder.log("chmod", target, Mode(inode, mode))


def _link(recorder: _Recorder, real: _Hook, source: Any, target: Any, **kwargs: Any) -> None:
    real(source, target, **kwargs)
    inode, place = recorder.of(source), recorder.place(target)
    assert (inode is None) == (place is None), "a link across the border: not modelled"
    if inode is not None and place is not None:
        recorder.log("link", target, Entries((Entry(*place, inode),)))


def _rename(recorder: _Recorder, real: _Hook, source: Any, target: Any) -> None:
    inode, old, new = recorder.of(source), recorder.place(source), recorder.place(target)
    same = inode is not None and inode == recorder.of(target)  # then POSIX does nothing
    real(source, target)
    assert (old is None) == (new is None), "a rename across the border: not modelled"
    if inode is not None and old is not None and new is not None and not same:
        recorder.log("rename", target, Entries((Entry(*old, None), Entry(*new, inode))))


def _unlink(recorder: _Recorder, real: _Hook, path: Any, *, dir_fd: int | None = None) -> None:
    place = recorder.place(path, dir_fd)
    real(path, dir_fd=dir_fd)
    if place is not None:
        recorder.log("unlink", path, Entries((Entry(*place, None),)), dir_fd)


def _rmdir(recorder: _Recorder, real: _Hook, path: Any, *, dir_fd: int | None = None) -> None:
    _unlink(recorder, real, path, dir_fd=dir_fd)


def _mkdir(
    recorder: _Recorder, real: _Hook, path: Any, mode: int = 0o777, *, dir_fd: int | None = None
) -> None:
    place = recorder.place(path, dir_fd)
    real(path, mode, dir_fd=dir_fd)
    if place is not None:
        inode = recorder.born(path, dir_fd=dir_fd)
        event = Entries((Entry(*place, inode),), new_directory=True)
        recorder.log("mkdir", path, event, dir_fd)


_HOOKS: dict[str, _Hook] = {
    "chmod": _chmod,
    "fchmod": _chmod,
    "fdatasync": _sync,
    "fsync": _sync,
    "ftruncate": _resize,
    "link": _link,
    "mkdir": _mkdir,
    "open": _open,
    "pwrite": _pwrite,
    "remove": _unlink,
    "rename": _rename,
    "replace": _rename,
    "rmdir": _rmdir,
    "truncate": _resize,
    "unlink": _unlink,
    "write": _write,
}
_NOT_MODELLED = (
    "copy_file_range",
    "mkfifo",
    "mknod",
    "posix_fallocate",
    "pwritev",
    "sendfile",
    "splice",
    "symlink",
    "writev",
)


def _require_nothing_missed(recorder: _Recorder) -> None:
    disk = CrashDisk(recorder.recording.start)
    for step in recorder.recording.steps:
        disk.apply(step.event)
    replayed, real = disk.in_memory().contents(), take_snapshot(recorder.root).contents()
    differing = sorted({path for path, _ in replayed.items() ^ real.items()})
    assert not differing, f"changed behind the recorder's back: {differing}"
