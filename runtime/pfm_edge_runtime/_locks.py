"""Holding a directory against every other process that asks for it the same way.

Owns the lock: it belongs to the open directory, leaves no file, and ends with the process::

    with exclusive(Path("model")):
        ...
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pfm_edge_runtime._disk import mapped_errors

__all__ = ["exclusive", "hold"]


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold ``directory`` against every other process that asks for it this way; wait if need be.

    The lock belongs to the open directory: it leaves no file, and it ends with the process. If
    another directory took that name while we waited, that one is held.
    Where the system has no ``flock`` (Windows) it excludes nobody.

    Raises:
        StorageError: The directory cannot be opened or locked.
    """
    with mapped_errors(directory):
        descriptor = hold(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def hold(directory: Path, *, wait: bool = True) -> int:
    """Lock a directory, and return what holds it until it is closed.

    Raises:
        BlockingIOError: Somebody holds it, and nobody shall wait; or this system cannot tell.
    """
    while True:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            _lock(descriptor, wait=wait)
            held = os.path.samestat(os.fstat(descriptor), directory.stat())
        except BaseException:
            os.close(descriptor)
            raise
        if held:
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> None:
    try:
        import fcntl  # noqa: PLC0415 (POSIX only)
    except ImportError:
        if not wait:
            raise BlockingIOError(errno.EAGAIN, "nobody can tell who holds it") from None
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
