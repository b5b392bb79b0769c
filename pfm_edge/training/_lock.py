"""Who works on a run: any number that read it or train it, or one that takes classes out of it.

Owns the file `lock` of a run; it is empty, and the lock ends with the process::

    with in_use(run.path):       # train, evaluate, export
    with alone(run.path):        # forget, replace: refused while another works on it

A training holds the class in its memory and would write it again. Where the system has no `flock`
(Windows) nobody is excluded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pfm_edge.errors import RunError

__all__ = ["LOCK_FILE", "alone", "in_use"]

LOCK_FILE = "lock"


@contextmanager
def in_use(run: Path) -> Iterator[None]:
    """Work on a run beside others that do; wait for one that is alone with it.

    Raises:
        RunError: the run cannot be locked.
    """
    with _opened(run) as descriptor:
        _lock(run, descriptor, alone=False)
        yield


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Work on a run without anybody else.

    Raises:
        RunError: another process works on it, or it cannot be locked.
    """
    with _opened(run) as descriptor:
        _lock(run, descriptor, alone=True)
        yield


@contextmanager
def _opened(run: Path) -> Iterator[int]:
    try:
        descriptor = os.open(run / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"{run}: cannot be locked ({error.strerror}); make it writable") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(run: Path, descriptor: int, *, alone: bool) -> None:
    try:
        import fcntl  # noqa: PLC0415 (POSIX only)
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except BlockingIOError as error:
        raise RunError(
            f"{run}: in use by another process (a training or an export?); stop it or let it end"
        ) from error
    except OSError as error:
        raise RunError(f"{run}: cannot be locked ({error.strerror})") from error
