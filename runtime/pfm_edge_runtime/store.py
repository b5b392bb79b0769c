"""Writing so that a crash, a full disk or a failing write leaves the old or the new, never a half.

Owns every write that the packages make for keeps::

    write_atomic(Path("model/bundle.safetensors"), data)

    with staged_directory(Path("model"), overwrite=True) as staging:
        (staging / "manifest.json").write_bytes(manifest)

Temporary names start with a dot and end in ``.tmp`` beside what they replace; a process that is
killed may leave one (``erasure.finish`` removes a file, :func:`clear_unfinished` a directory), an
exception never does.
"""

# ruff: noqa: PTH102, PTH104, PTH106, PTH108 (system calls by name: the fault tests count them)

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pfm_edge_runtime._disk import (
    OLD,
    SUFFIX,
    is_temporary,
    mapped_errors,
    put_back,
    reason,
    replace,
    sibling,
    sync,
)
from pfm_edge_runtime._locks import exclusive, hold
from pfm_edge_runtime._phrases import first_of
from pfm_edge_runtime.errors import PfmEdgeError, StorageError

__all__ = [
    "Known",
    "clear_unfinished",
    "confirm",
    "exclusive",
    "foreign_files",
    "require_replaceable",
    "staged_directory",
    "without_waiting",
    "write_atomic",
]

Known = Callable[[Path], Collection[str]]
"""Which files a directory may lose when it is replaced, by their paths in it."""

_AT_FDCWD = -100  # <fcntl.h>
_RENAME_EXCHANGE = 2  # <linux/fs.h>
_NO_LOCK = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}  # some network file systems
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the contents of ``path`` by ``data``: durable when it returns, or not done at all.

    The order is that of bundle.md: write and sync a temporary file in the same directory, rename
    it over the old one, sync the directory. The old file keeps a second name until the directory
    is on disk, so that even a failure of that last step can be undone. Mode and owner stay.

    Raises:
        StorageError: The disk refused; ``path`` is as it was and no temporary file is left.
    """
    with mapped_errors(path):
        if path.is_symlink():
            raise StorageError(f"{path} is a symbolic link: write to the file that it points to")
        backup = sibling(path)
        if replace(path, data, backup=backup, confirm_backup=False):
            try:
                os.unlink(backup)
            except BaseException:
                put_back(backup, path)
                raise


def confirm(path: Path) -> None:
    """Put a file and its name on the disk, whoever wrote them.

    Raises:
        StorageError: The disk refused.
    """
    with mapped_errors(path):
        sync(path)
        sync(path.parent)


@contextmanager
def staged_directory(
    target: Path,
    *,
    overwrite: bool,
    marker: str | None = None,
    known: Known | None = None,
    discard: Callable[[Path], None] = shutil.rmtree,
) -> Iterator[Path]:
    """Yield an empty directory beside ``target`` that becomes ``target`` when the block ends well.

    Every file and directory in it is synced first. A new target appears by one rename; an old one
    is exchanged for the new in one step where the system can (Linux), by renames elsewhere,
    and removed afterwards. If the block raises, or the disk refuses, the staging directory is
    removed, with the parents that were made for it, and ``target`` is as it was. What killed
    processes left beside ``target`` goes first; what cannot go is named once ``target`` is there.

    Args:
        target: The directory to write; missing parents are made.
        overwrite: Whether an old directory that holds anything may be replaced.
        marker: Name of a file that an old directory must hold to be replaced: keeps a mistyped
            target from deleting something else.
        known: Gives the files that may go with an old directory; any other keeps it.
        discard: Removes the old directory, or the staging directory of a block that failed.

    Raises:
        StorageError: ``target`` may not be replaced, or the disk refused.
    """
    target = Path(os.path.realpath(target))
    with mapped_errors(target), _cleared(target, discard):
        require_replaceable(target, overwrite=overwrite, marker=marker, known=known)
        with _parents(target), _staging(target) as staging:
            try:
                with _named(staging, target):
                    yield staging
                _sync_tree(staging)
                # Again: an export takes a while, and another may have got there first.
                require_replaceable(target, overwrite=overwrite, marker=marker, known=known)
                _publish(staging, target, discard)
            except BaseException:
                with suppress(OSError, StorageError):
                    discard(staging)
                raise


@contextmanager
def _cleared(target: Path, discard: Callable[[Path], None]) -> Iterator[None]:
    """Clear what killed processes left; what stays stops nobody, and is an error afterwards."""
    stays: StorageError | None = None
    try:
        clear_unfinished(target, discard)
    except StorageError as error:
        stays = error
    yield
    if stays is not None:
        raise StorageError(f"{target} is new and complete, but {stays}") from stays


def clear_unfinished(target: Path, discard: Callable[[Path], None], *, wait: bool = False) -> None:
    """Remove the directories that killed processes left beside ``target``.

    One that had its name goes back to it if nothing has by now: it was being replaced.

    Args:
        target: What :func:`staged_directory` was asked for.
        discard: Removes one.
        wait: Whether to wait for a process that works in one; else that one stays.

    Raises:
        StorageError: The disk refused; what is left waits for the next call.
    """
    try:
        for each in _unfinished(target):
            with suppress(BlockingIOError, FileNotFoundError):  # in use, or gone by now
                descriptor = hold(each, wait=wait)
                try:
                    if each.name.endswith(OLD + SUFFIX) and not os.path.lexists(target):
                        os.rename(each, target)
                        sync(target.parent)
                    else:
                        discard(each)
                finally:
                    os.close(descriptor)
    except OSError as error:
        raise StorageError(
            f"what a killed process left beside {target} cannot be removed yet: "
            f"{reason(error)}; the next attempt goes on"
        ) from error


def _unfinished(target: Path) -> list[Path]:
    try:
        entries = os.scandir(target.parent)
    except (FileNotFoundError, NotADirectoryError):
        return []
    with entries:
        return [
            target.with_name(each.name)
            for each in entries
            if is_temporary(each.name, of=target.name) and each.is_dir(follow_symlinks=False)
        ]


def without_waiting(path: str, flags: int) -> int:
    """Open as ``open`` does, but a pipe without waiting for its writer; an ``opener``."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def require_replaceable(
    target: Path, *, overwrite: bool, marker: str | None = None, known: Known | None = None
) -> None:
    """Ask what :func:`staged_directory` will ask, before the work that fills it.

    Raises:
        StorageError: ``target`` may not be replaced.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise StorageError(f"{target} is a file: name a directory")
    if os.path.ismount(os.path.realpath(target)):  # nothing can be renamed to or from it
        raise StorageError(f"{target} is a mount point: name a directory in it")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise StorageError(f"{target} exists and is not empty: name another, or add --overwrite")
    if marker is not None and not (target / marker).exists():
        raise StorageError(f"{target} holds no {marker}, so it is not replaced: remove it yourself")
    if Path.cwd().is_relative_to(target):
        raise StorageError(f"{target} is in use: leave that directory before replacing it")
    foreign = [] if known is None else foreign_files(target, known(target))
    if foreign:
        them = "it" if len(foreign) == 1 else "them"
        raise StorageError(
            f"{first_of(foreign)} would go with {target}, and no export "
            f"wrote {them}: move or remove {them}, or name another place"
        )


def foreign_files(directory: Path, known: Collection[str]) -> list[Path]:
    """Return the files and links below a directory that are not known, in order.

    Our temporaries are none of them, nor what a system or Python puts into any folder by itself.

    Raises:
        StorageError: Nobody can look into a directory there.
    """

    def refuse(error: OSError) -> None:
        raise StorageError(
            f"nobody can tell what is in {error.filename} ({error.strerror}): make it readable"
        ) from error

    found: list[Path] = []
    for folder, folders, names in os.walk(directory, onerror=refuse):
        folders[:] = sorted(each for each in folders if not is_temporary(each))
        links = [each for each in folders if Path(folder, each).is_symlink()]
        for path in (Path(folder, name) for name in sorted([*names, *links])):
            unknown = path.relative_to(directory).as_posix() not in known
            if unknown and not is_temporary(path.name) and not _nobodys(path):
                found.append(path)
    return found


def _nobodys(path: Path) -> bool:
    """Tell whether no person wrote a file: a system did, to show a folder, or Python."""
    compiled = path.suffix == ".pyc" and path.parent.name == "__pycache__"
    return compiled or path.name in {".DS_Store", "Thumbs.db", "desktop.ini"}


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Make a directory beside ``target``, and hold it: what nobody holds was left by a crash."""
    descriptor: int | None = None
    while descriptor is None:
        staging = sibling(target)
        os.mkdir(staging)
        try:
            descriptor = hold(staging)
        except FileNotFoundError:  # another process took it for such, before we held it
            continue
        except OSError as error:
            if error.errno in _NO_LOCK:
                break
            with suppress(OSError):
                os.rmdir(staging)
            raise
    try:
        yield staging
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _named(staging: Path, target: Path) -> Iterator[None]:
    """Let errors name the place that was asked for, not the one beside it."""
    try:
        yield
    except PfmEdgeError as error:
        message = str(error).replace(str(staging), str(target))
        error.args = (message, *error.args[1:])
        raise
    except OSError as error:
        if isinstance(error.filename, str):
            error.filename = error.filename.replace(str(staging), str(target))
        raise


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the parents of ``target`` that are missing; if the block raises, they go again."""
    missing = [each for each in target.parents if not each.is_dir()]
    try:
        if missing:
            target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # somebody put something there, or the disk refuses this, too
            for each in missing:
                os.rmdir(each)
        raise


def _publish(staging: Path, target: Path, discard: Callable[[Path], None]) -> None:
    """Make ``staging`` the new ``target``, durably, or put everything back."""
    if not target.exists() or not any(target.iterdir()):
        os.rename(staging, target)  # also over an empty directory
        _sync_or_undo(target.parent, lambda: os.rename(target, staging))
        return
    with exclusive(target):  # a forget that writes there ends first, or begins in the new one
        _exchange(staging, target)
        _sync_or_undo(target.parent, lambda: _exchange(staging, target))
        try:
            discard(staging)  # the old directory, by now
        except (OSError, StorageError) as error:
            why = reason(error) if isinstance(error, OSError) else error
            raise StorageError(
                f"{target} is new and complete, but the old one stays for now: {staging} ({why}); "
                "the next export there removes it"
            ) from error


def _exchange(one: Path, other: Path) -> None:
    """Let two paths trade places: in one step where the system can, else in three renames."""
    if _exchange_at_once(one, other):
        return
    aside = sibling(other, OLD)
    os.rename(other, aside)
    try:
        os.rename(one, other)
        try:
            os.rename(aside, one)
        except BaseException:
            os.rename(other, one)
            raise
    except BaseException:
        put_back(aside, other)
        raise


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Call Linux' ``renameat2`` with RENAME_EXCHANGE; tell whether system and disk know it."""
    import ctypes  # noqa: PLC0415 (costs 10 ms, and only an export with --overwrite needs it)

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sync_or_undo(directory: Path, undo: Callable[[], None]) -> None:
    try:
        sync(directory)
    except BaseException:
        try:
            undo()
        except OSError as error:
            raise StorageError(
                f"a rename in {directory} is done, but the disk did not confirm it: "
                "run the command again"
            ) from error
        raise


def _sync_tree(directory: Path) -> None:
    """Sync every file and directory below ``directory``, and itself, children first."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
