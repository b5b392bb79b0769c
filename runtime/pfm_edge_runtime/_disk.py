"""The steps of a durable write, each by itself; ``store`` and ``erasure`` put them in order.

Owns how a file comes to be and how it takes another's place, with every step undone if a later one
fails::

    with mapped_errors(path):
        kept = replace(path, data, backup=sibling(path), confirm_backup=False)

Temporary names start with a dot and end in ``.tmp`` beside what they replace.
"""

# ruff: noqa: PTH105, PTH108 (system calls by name: the fault tests count them)

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pfm_edge_runtime.errors import StorageError

__all__ = [
    "DYING",
    "OLD",
    "SUFFIX",
    "discard",
    "is_temporary",
    "mapped_errors",
    "put_back",
    "reason",
    "replace",
    "sibling",
    "sync",
]

SUFFIX = ".tmp"
DYING = ".dying"
OLD = ".old"
_TEMPORARY = re.compile(
    rf"\.(.+)\.[0-9a-f]{{16}}(?:{re.escape(OLD)})?{re.escape(SUFFIX)}|\.(.+){re.escape(DYING)}",
    re.DOTALL,
)
_NO_HARD_LINK = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a StorageError that names ``path`` and the reason."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        culprit = error.filename
        if isinstance(culprit, str) and culprit != str(path) and not culprit.endswith(SUFFIX):
            reason += f" ({culprit})"
        raise StorageError(
            f"{path} cannot be written: {reason}; what was there before is intact"
        ) from error


def reason(error: OSError) -> str:
    """Say why the disk refused; and of what is not writable, which file to make so."""
    said = error.strerror or str(error)
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{said}: make {error.filename} writable"
    return said


def sibling(path: Path, kind: str = "") -> Path:
    """Return a fresh temporary name beside ``path``; ``OLD`` as its kind for what has its name."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{kind}{SUFFIX}")


def is_temporary(name: str, *, of: str | None = None) -> bool:
    """Tell whether only a process of ours that was killed, or works still, leaves such a name.

    Args:
        name: Of a file or a directory.
        of: The name that it must stand for; any by default.
    """
    found = _TEMPORARY.fullmatch(name)
    return found is not None and of in {None, *found.groups()}


def replace(path: Path, data: bytes, *, backup: Path, confirm_backup: bool) -> bool:
    """Replace the contents of ``path``, durably; the old file keeps the name ``backup``.

    Args:
        path: The file; it need not exist.
        data: What it shall hold.
        backup: A name that is not taken, in the same directory.
        confirm_backup: Whether that name must be on disk before ``path`` gets its new file.

    Returns:
        Whether there is a backup: not if there was no file, or the disk knows no hard links.

    Raises:
        OSError: The disk refused; ``path`` is as it was and neither name is left.
        StorageError: The disk refused, and to undo it too; says what is where.
    """
    temporary = sibling(path)
    try:
        _write_new(temporary, data, like=path)
        has_backup, existed = _second_name(path, backup), path.exists()
        try:
            if has_backup and confirm_backup:
                sync(path.parent)
            os.replace(temporary, path)
        except BaseException:
            if has_backup:
                discard(backup)
            raise
        _confirm(path, backup if has_backup else None, existed=existed)
    except BaseException:
        discard(temporary)
        raise
    return has_backup


def put_back(old: Path, path: Path) -> None:
    """Rename ``old`` back to ``path``; if even that fails, say where the old one is now.

    Raises:
        StorageError: The disk refused.
    """
    try:
        os.replace(old, path)
    except OSError as error:
        raise StorageError(
            f"{path} could not be written, and the disk refused to undo that: "
            f"what was there before is {old}"
        ) from error


def sync(path: Path) -> None:
    """Put a file, or the names in a directory, on disk.

    Raises:
        OSError: The disk refused.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove a temporary name, if it is there and the disk lets us."""
    with suppress(OSError):
        os.unlink(path)


def _write_new(path: Path, data: bytes, *, like: Path) -> None:
    """Write and sync a file that must not exist yet, with mode and owner of ``like``, if any."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    try:
        if like.exists():
            _copy_ownership(like.stat(), descriptor)
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_ownership(old: os.stat_result, descriptor: int) -> None:
    if not hasattr(os, "fchown"):
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(PermissionError):  # only root may give a file away
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _second_name(path: Path, backup: Path) -> bool:
    """Give the old file a second name; tell whether there is one now."""
    try:
        os.link(path, backup)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in _NO_HARD_LINK:  # FAT and some network file systems
            return False
        raise
    return True


def _confirm(path: Path, backup: Path | None, *, existed: bool) -> None:
    """Sync the directory of the renamed ``path``; put the old file back if that fails."""
    try:
        sync(path.parent)
    except BaseException:
        if backup is not None:
            put_back(backup, path)
        elif not existed:
            os.unlink(path)
        else:
            raise StorageError(
                f"{path} is new and complete, but the disk did not confirm it: "
                "run the command again"
            ) from None
        raise
