"""What an update leaves in ``state/ota``: all of it may be wiped, none of it is trusted.

Owns the files' names, and the lock that lets one update run at a time. What is read from here is
compared with signed hashes or verified again; a file that a crash has torn is fetched again::

    cache = Cache(state.updates_directory)
    with cache.alone(timeout=30.0, sleep=time.sleep):
        cache.write("forget.json", text)
"""

# ruff: noqa: PTH102 (system calls by name: the fault tests count them)

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pfm_edge_runtime._disk import SUFFIX, discard, mapped_errors, sync
from pfm_edge_runtime.errors import FetchError, StorageError, UpdateBusyError
from pfm_edge_runtime.ota._directory import read_whole
from pfm_edge_runtime.store import write_atomic

__all__ = ["Cache"]

_LOG = logging.getLogger("pfm_edge_runtime")
_POLL_SECONDS = 0.1
_MODE = 0o700


class Cache:
    """The directory of an update's own files.

    Args:
        directory: Where it is; made when it is first needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, name: str, most: int) -> bytes | None:
        """Read a file; ``None`` if there is none that can be read."""
        try:
            return read_whole(self.directory / name, most)
        except FetchError:
            return None

    def read_known(self, name: str, digest: str, most: int) -> bytes | None:
        """Read a file, if it is the one with this SHA-256 in hexadecimal."""
        data = self.read(name, most)
        return data if data is not None and hashlib.sha256(data).hexdigest() == digest else None

    def write(self, name: str, data: bytes) -> None:
        """Write a file, durably, unless it holds that already.

        Raises:
            StorageError: The disk refused; the file is as it was.
        """
        if self.read(name, len(data)) == data:
            return
        path = self.directory / name
        self.make(path.parent)
        write_atomic(path, data)

    def keep(self, name: str, data: bytes) -> None:
        """Write a file as :meth:`write` does; a disk that refuses costs a download, no more."""
        try:
            self.write(name, data)
        except StorageError as error:
            _LOG.warning("%s is not kept, and will be fetched again: %s", name, error)

    def make(self, directory: Path) -> None:
        """Make a directory below this one, or this one.

        Raises:
            StorageError: The disk refused.
        """
        with mapped_errors(directory):
            if directory.is_dir():
                return
            if not directory.parent.is_dir():
                self.make(directory.parent)
            try:
                os.mkdir(directory, _MODE)
            except FileExistsError:
                return
            sync(directory.parent)

    @contextmanager
    def alone(self, *, timeout: float, sleep: Callable[[float], None]) -> Iterator[None]:
        """Hold updates of this device against every other process; wait a while if need be.

        The lock is the directory's own: it leaves no file, and it ends with the process.

        Raises:
            UpdateBusyError: Another update is under way, and has not ended in time.
            StorageError: The directory cannot be made or locked.
        """
        self.make(self.directory)
        with mapped_errors(self.directory):
            descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            waited = 0.0
            while not self._try(descriptor):
                if waited >= timeout:
                    raise UpdateBusyError(
                        "another update of this device is under way: try again later"
                    )
                sleep(_POLL_SECONDS)
                waited += _POLL_SECONDS
            self._sweep()
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove the temporary files that a crash left."""
        for folder, _, names in os.walk(self.directory):
            for name in names:
                if name.startswith(".") and name.endswith(SUFFIX):
                    discard(Path(folder, name))

    def _try(self, descriptor: int) -> bool:
        try:
            import fcntl  # noqa: PLC0415 (POSIX only)
        except ImportError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StorageError(
                f"{self.directory} cannot be locked: {error.strerror or error}; nothing changed"
            ) from error
        return True
