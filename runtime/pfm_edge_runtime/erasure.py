"""Erasing a file's old bytes when it is replaced or removed, as far as the file system lets us.

Owns the way from "the new file is in place" to "the old bytes are gone", and what may be claimed
about it. The old file gets a second, dying name before the new one takes its place, so that a
crash never leaves bytes that nothing points to any more::

    old = replace_erasing(Path("model/bundle.safetensors"), data)
    old.method, old.file_system, old.in_place        # "overwritten", "ext4", True

    finish(path)         # what a crash left: dying and temporary files, overwritten and removed

Overwriting in place is no media sanitisation: flash remaps blocks, and a copy-on-write file system
writes elsewhere. :class:`OldBytes` says which file system it was.
"""

# ruff: noqa: PTH101, PTH108 (system calls by name: the fault tests count them)

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pfm_edge_runtime._disk import DYING, SUFFIX, mapped_errors, reason, replace, sync
from pfm_edge_runtime.errors import StorageError

__all__ = [
    "OldBytes",
    "erase",
    "erase_dying",
    "finish",
    "leftovers",
    "old_bytes",
    "replace_erasing",
    "swap",
]

_CHUNK = bytes(2**20)
_OCTAL = re.compile(r"\\([0-7]{3})")  # how /proc/self/mountinfo spells blanks in a path
# Where an overwritten block stays the same block, and where it never does.
_IN_PLACE = {"ext2", "ext3", "ext4", "xfs", "vfat", "exfat", "ntfs3", "tmpfs", "ramfs"}
_ELSEWHERE = {"btrfs", "f2fs", "overlay", "zfs", "bcachefs", "nilfs2", "ubifs", "jffs2", "apfs"}


@dataclass(frozen=True, slots=True)
class OldBytes:
    """What was done to the bytes of a file that is gone.

    Attributes:
        method: ``"overwritten"`` with zeros, synced, then unlinked; ``"unlinked"`` alone, where
            the file had other names that still need its bytes, or the disk knows no hard links;
            ``"unknown"`` where a crash came between the deed and its record.
        file_system: Its type, as ``"ext4"``, or ``"unknown"``.
        in_place: Whether that file system overwrites the same blocks; ``None`` if not known.
    """

    method: str
    file_system: str
    in_place: bool | None


def replace_erasing(path: Path, data: bytes) -> OldBytes:
    """Replace the contents of ``path`` durably, and erase what it held.

    Raises:
        StorageError: The disk refused. Either ``path`` is as it was, or it is new and the old
            bytes wait under a dying name for the next :func:`finish`.
    """
    finish(path)
    return erase_dying(path, swap(path, data))


def swap(path: Path, data: bytes) -> Path | None:
    """Replace the contents of ``path`` durably; the old file stays under its dying name.

    Returns:
        That name; ``None`` if there was no file, or the disk knows no hard links.

    Raises:
        StorageError: The disk refused, and ``path`` is as it was.
    """
    dying = path.with_name(f".{path.name}{DYING}")
    with mapped_errors(path):
        kept = replace(path, data, backup=dying, confirm_backup=True)
    return dying if kept else None


def erase_dying(path: Path, dying: Path | None) -> OldBytes:
    """Erase what :func:`swap` kept of ``path``.

    Raises:
        StorageError: The disk refused; the dying name waits for the next :func:`finish`.
    """
    return old_bytes("unlinked", path) if dying is None else erase(dying)


def finish(path: Path) -> OldBytes | None:
    """Erase what a crash left of earlier replacements of ``path``; hold its directory for it.

    Returns:
        What was done to the file that ``path`` held before, if it was still there.

    Raises:
        StorageError: The disk refused; what is left waits for the next call.
    """
    found: OldBytes | None = None
    with _mapped(path):
        remains = leftovers(path)
        if remains:
            # The new name must be on disk before the old bytes go: or a crash now could leave the
            # old name, and zeros behind it.
            sync(path.parent)
        for each in remains:
            # Before the rename, the dying name and the file's own name are one file; then only
            # the name goes, because the file has another.
            same = path.exists() and os.path.samestat(os.lstat(each), path.stat())
            done = erase(each)
            if each.name.endswith(DYING) and not same:
                found = done
    return found


def erase(path: Path) -> OldBytes:
    """Overwrite a file with zeros, sync it, unlink it, sync its directory.

    A file with other names (hard links) is unlinked only: whoever uses those needs its bytes. So is
    what is no file: a link has none, and a pipe would wait for its reader. One's own file that is
    read-only, or in a read-only directory, is made writable.

    Raises:
        StorageError: The disk refused; the file is still there under its name.
    """
    with _mapped(path):
        found = os.lstat(path)
        alone = found.st_nlink == 1 and stat.S_ISREG(found.st_mode)
        if alone:
            _made_writable(path, lambda: _overwrite(path))
        _made_writable(path.parent, lambda: os.unlink(path))
        sync(path.parent)
    return old_bytes("overwritten" if alone else "unlinked", path)


def leftovers(path: Path) -> list[Path]:
    """List the dying and temporary files of ``path``, sorted; a directory is none of ours.

    Raises:
        StorageError: Its directory cannot be read.
    """
    prefix = f".{path.name}."
    # Of the directory alone: another process may be removing them just now.
    with _mapped(path), os.scandir(path.parent) as entries:
        return sorted(
            path.with_name(each.name)
            for each in entries
            if each.name.startswith(prefix)
            and each.name.endswith((DYING, SUFFIX))
            and not each.is_dir(follow_symlinks=False)
        )


def old_bytes(method: str, path: Path) -> OldBytes:
    """Describe a deed on the file system that holds ``path``."""
    kind, options = _file_system(path)
    in_place = True if kind in _IN_PLACE else False if kind in _ELSEWHERE else None
    if "data=journal" in options:  # ext4 writes the bytes to its journal first
        in_place = False
    return OldBytes(method, kind, in_place)


def _made_writable(path: Path, deed: Callable[[], None]) -> None:
    """Do what needs the right to write to a file or directory, and take that right if need be."""
    try:
        deed()
    except PermissionError:
        os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) | stat.S_IWUSR)
        deed()


def _overwrite(path: Path) -> None:
    flags = os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags)
    try:
        size, done = os.fstat(descriptor).st_size, 0
        while done < size:
            done += os.pwrite(descriptor, memoryview(_CHUNK)[: size - done], done)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"old bytes beside {path.parent / path.name} cannot be erased yet: "
            f"{reason(error)}; the next attempt goes on"
        ) from error


def _file_system(path: Path) -> tuple[str, str]:
    """Return type and options of the mount that holds ``path``, from Linux' mountinfo."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return "unknown", ""
    target = Path(os.path.realpath(path.parent))
    best: tuple[int, str, str] = (-1, "unknown", "")
    for line in lines:
        mount, _, source = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), mount.split(" ")[4]))
        if target.is_relative_to(point) and len(point.parts) >= best[0]:
            best = (len(point.parts), *_type_and_options(source))
    return best[1], best[2]


def _type_and_options(source: str) -> tuple[str, str]:
    kind, _, rest = source.partition(" ")
    return kind, rest.rpartition(" ")[2]
