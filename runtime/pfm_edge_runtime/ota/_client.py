"""TUF's client: the directory that it works in, what it reads through, and what it lets pass.

Owns the settings of ``tuf.ngclient``. It takes a cached snapshot for the one that a timestamp names
by the version alone, and a timestamp for the one that it has; so a publisher whose repository was
restored from a backup, and who uses a version twice, would not be heard. Here that is noticed::

    client = Client(folder, transport, cached, root)
    client.judge_by(now)
    client.refresh()                      # True: not with what was cached, but without it
    client.trusted.snapshot               # verified

It starts from what is cached; what it verified lies in ``folder`` afterwards.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pfm_edge_runtime.errors import StorageError, UpdateError
from pfm_edge_runtime.ota._transport import MissingFileError, Transport
from pfm_edge_runtime.ota.names import METADATA_FOLDER

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile
    from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

__all__ = [
    "MOST_METADATA_BYTES",
    "Client",
    "fetcher",
    "limits",
    "require_tuf",
    "stated_version",
    "temporary_folder",
]

MOST_METADATA_BYTES = 2**23
"""Bytes of one role's metadata; lengths are stated for all but root and timestamp."""

_MOST_ROOT, _MOST_TIMESTAMP = 2**17, 2**14
_TIMESTAMP = "timestamp.json"


class Client:
    """TUF's client while one update lasts; what it raises is TUF's.

    Args:
        folder: An empty directory of its own.
        transport: What reads the repository.
        cached: Metadata that was verified before, by role.
        root: The root that is trusted.
    """

    def __init__(
        self, folder: Path, transport: Transport, cached: Mapping[str, bytes], root: bytes
    ) -> None:
        self._folder = folder
        self._root = root
        self._came: dict[str, bytes] = {}
        self._fetcher = fetcher(transport, self._came)
        for role, data in cached.items():
            (folder / f"{role}.json").write_bytes(data)
        self._updater = self._begin()

    @property
    def trusted(self) -> "TrustedMetadataSet":
        """What was verified so far."""
        return self._updater._trusted_set

    def judge_by(self, reference: datetime) -> None:
        """Judge by this time whether something has expired, from now on."""
        # The client has no public way to say what time it is; it asks the local clock, which may
        # say 1971. pyproject.toml pins its version for that, and a test sees that this works.
        self.trusted.reference_time = reference

    def refresh(self) -> bool:
        """Refresh the top-level roles; once more, from nothing, where what is cached does not fit.

        Returns:
            Whether it did not fit: the publisher used a version twice.
        """
        if self._refreshed():
            return False
        reference = self.trusted.reference_time
        for path in self._folder.glob("*.json"):
            path.unlink()
        self._updater = self._begin()
        self.judge_by(reference)
        self._updater.refresh()
        return True

    def find(self, target: str) -> "TargetFile | None":
        """Look a target up; its delegation is fetched if it is not here, and verified."""
        return self._updater.get_targetinfo(target)

    def root(self, version: int) -> bytes:
        """Return a root that was verified on the way to the newest."""
        return (self._folder / "root_history" / f"{version}.root.json").read_bytes()

    def _refreshed(self) -> bool:
        """Refresh; tell whether snapshot and timestamp are those that the repository has now.

        Of the other roles the client compares length and hash by itself.
        """
        from tuf.api.exceptions import ExpiredMetadataError, LengthOrHashMismatchError

        try:
            self._updater.refresh()
            snapshot = (self._folder / "snapshot.json").read_bytes()
            self.trusted.timestamp.snapshot_meta.verify_length_and_hashes(snapshot)
        except LengthOrHashMismatchError:
            return False
        except ExpiredMetadataError:  # where it is the cached one, the other one may not have
            if not self._is_repeated():
                raise
        return not self._is_repeated()

    def _is_repeated(self) -> bool:
        """Tell whether the timestamp that came has the cached one's number, and other bytes."""
        path = self._folder / _TIMESTAMP
        came, cached = self._came.get(_TIMESTAMP), path.read_bytes() if path.exists() else None
        if came is None or cached is None or came == cached:
            return False
        return stated_version(came) == stated_version(cached)

    def _begin(self) -> "Updater":
        from tuf.ngclient import Updater

        return Updater(
            str(self._folder),
            f"{METADATA_FOLDER}/",
            fetcher=self._fetcher,
            config=limits(),
            bootstrap=self._root,
        )


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a directory in the system's temporary place, and remove it.

    Raises:
        StorageError: There is no room for it.
    """
    try:
        made = TemporaryDirectory(prefix="pfm-update-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"the system's place for temporary files cannot be written: {error.strerror or error}; "
            "set TMPDIR"
        ) from error
    with made as folder:
        yield Path(folder)


def require_tuf() -> None:
    """Require that TUF's client is installed.

    Raises:
        UpdateError: The extra ``ota`` is not.
    """
    try:
        import tuf.ngclient  # noqa: F401 (whether it is there)
    except ImportError as error:
        raise UpdateError(
            "updates over the air need tuf: pip install 'pfm-edge-runtime[ota]'"
        ) from error


def stated_version(data: bytes) -> int:
    """Return the version that metadata states, whoever signed it; 0 if it cannot be read."""
    try:
        return int(json.loads(data)["signed"]["version"])
    except (KeyError, RecursionError, TypeError, ValueError):
        return 0


def limits() -> "UpdaterConfig":
    """Return how long metadata may be."""
    from tuf.ngclient import UpdaterConfig

    return UpdaterConfig(
        root_max_length=_MOST_ROOT,
        timestamp_max_length=_MOST_TIMESTAMP,
        snapshot_max_length=MOST_METADATA_BYTES,
        targets_max_length=MOST_METADATA_BYTES,
    )


def fetcher(transport: Transport, came: dict[str, bytes] | None = None) -> "FetcherInterface":
    """Let TUF's client read through a transport; ``came`` keeps the timestamp that came last."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class Fetcher(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            yield transport.read(url, most=MOST_METADATA_BYTES)

        def download_bytes(self, url: str, max_length: int) -> bytes:
            try:
                data = transport.read(url, most=max_length)
            except MissingFileError as error:
                # The client asks for roots until there is none.
                raise DownloadHTTPError(str(error), error.status) from error
            name = url.rpartition("/")[2]
            if came is not None and name == _TIMESTAMP:
                came[name] = data
            return data

    return Fetcher()
