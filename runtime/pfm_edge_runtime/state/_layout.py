"""Where a device's state lies, and how its files come to be.

Owns the names and modes of the files, and the order in which a new state is written. The ledger
comes last and by one rename: a state without a ledger is none yet, and whatever a crash left of it
is written again::

    layout = Layout(default_state_directory())
    layout.ledger                     # …/ledger.jsonl
"""

# ruff: noqa: PTH102, PTH105 (system calls by name: the fault tests count them)

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pfm_edge_runtime._disk import SUFFIX, discard, sibling, sync
from pfm_edge_runtime.errors import StateError, StorageError
from pfm_edge_runtime.store import without_waiting

__all__ = [
    "KEY_FILE",
    "PRIVATE",
    "PUBLIC",
    "Layout",
    "default_state_directory",
    "locked",
    "make_directory",
    "put",
    "read_file",
    "refused",
    "try_lock",
    "write_all",
]

KEY_FILE = "device.key"
"""Name of the device's private key."""

_VARIABLE = "PFM_EDGE_STATE"
_SYSTEM = Path("/var/lib/pfm-edge")
_DIRECTORY_MODE, PRIVATE, PUBLIC = 0o700, 0o600, 0o644


def default_state_directory() -> Path:
    """Return where the state of this device is, or will be.

    ``PFM_EDGE_STATE``, if it is set; ``/var/lib/pfm-edge``, if it exists or we are root; else the
    user's own state directory (XDG Base Directory Specification).
    """
    if named := os.environ.get(_VARIABLE):
        return Path(named)
    if _SYSTEM.is_dir() or (hasattr(os, "geteuid") and os.geteuid() == 0):
        return _SYSTEM
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        return (home if home.is_absolute() else Path.home() / ".local" / "state") / "pfm-edge"
    except RuntimeError as error:  # no home directory
        raise StateError(
            f"this user has no home directory to keep a state in: set {_VARIABLE}, or give --state"
        ) from error


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of a state's files.

    Attributes:
        directory: The state.
    """

    directory: Path

    @property
    def ledger(self) -> Path:
        """What the device remembers."""
        return self.directory / "ledger.jsonl"

    @property
    def key(self) -> Path:
        """The device's private key, PEM, for its owner alone."""
        return self.directory / KEY_FILE

    @property
    def public_key(self) -> Path:
        """Its public key, for those who check receipts."""
        return self.directory / "device.pub"

    @property
    def trust(self) -> Path:
        """Whom a managed device trusts."""
        return self.directory / "trust" / "keys.json"

    @property
    def repository(self) -> Path:
        """What it knows of the repository that its updates come from."""
        return self.directory / "trust" / "repository.json"

    @property
    def updates(self) -> Path:
        """What an update leaves; nothing that must be remembered."""
        return self.directory / "ota"

    @property
    def lock(self) -> Path:
        """Held by whoever appends to the ledger; empty."""
        return self.directory / "lock"

    @property
    def modes(self) -> dict[Path, int]:
        """The access that each file may give at most."""
        return {
            self.directory: _DIRECTORY_MODE,
            self.ledger: PRIVATE,
            self.key: PRIVATE,
            self.public_key: PUBLIC,
            self.trust: PUBLIC,
            self.repository: PUBLIC,
            self.lock: PRIVATE,
        }

    def leftovers(self) -> list[Path]:
        """List the temporary files that a crash left, sorted; a directory is somebody else's.

        Raises:
            OSError: A directory cannot be read.
        """
        folders = [each for each in (self.directory, self.trust.parent) if each.is_dir()]
        return sorted(
            entry
            for folder in folders
            for entry in folder.iterdir()
            if entry.name.startswith(".") and entry.name.endswith(SUFFIX)
            if entry.is_symlink() or not entry.is_dir()
        )


@contextmanager
def refused(path: Path, consequence: str) -> Iterator[None]:
    """Turn what the disk refuses into a StorageError that names ``path`` and what follows."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; {consequence}"
        ) from error


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Hold the state against every other process and every other thread; wait if need be.

    Raises:
        StorageError: The lock cannot be opened.
    """
    with refused(layout.lock, "nothing changed"):
        descriptor = _open_lock(layout)
    try:
        with refused(layout.lock, "nothing changed"):
            _flock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def try_lock(layout: Layout) -> bool:
    """Tell whether nobody holds the state just now.

    Raises:
        OSError: The lock cannot be opened.
    """
    descriptor = _open_lock(layout)
    try:
        _flock(descriptor, wait=False)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _open_lock(layout: Layout) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.open(layout.lock, flags, PRIVATE)


def _flock(descriptor: int, *, wait: bool) -> None:
    try:
        import fcntl  # noqa: PLC0415 (POSIX only)
    except ImportError:
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, durably; for their owner alone (XDG asks for it).

    Raises:
        OSError: The disk refused.
    """
    if not directory.parent.is_dir():
        make_directory(directory.parent)
    with suppress(FileExistsError):
        os.mkdir(directory, _DIRECTORY_MODE)
    # Even if it was there: whoever made it may not have come so far as to sync it.
    sync(directory.parent)


def put(path: Path, data: bytes, mode: int) -> None:
    """Write a file under a temporary name and rename it, durable once its directory is synced.

    Unlike ``store.write_atomic`` it gives ``mode`` from the first byte on, and the old file, if
    there is one, is not worth a second name.

    Raises:
        OSError: The disk refused; ``path`` is as it was.
    """
    temporary = sibling(path)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(temporary, flags | getattr(os, "O_BINARY", 0), mode)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        discard(temporary)
        raise
    sync(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``; one call may take only a part.

    Raises:
        OSError: The disk refused.
    """
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a file of the state; a pipe or a device in its place is refused, and never waited for.

    Raises:
        FileNotFoundError: It is missing.
        StateError: It cannot be read, is no regular file, or is too long; the caller names it.
    """
    try:
        with open(path, "rb", opener=without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StateError("it is no regular file")
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(f"it cannot be read: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise StateError(f"it is longer than {max_bytes} bytes")
    return data
