"""A repository, a server and a client under test: what each conformance test plays with.

Owns the client's side: it is driven through its command line only, and known by the exit code, by
the files that it leaves and by what it asks the server for::

    stage.refresh() == 0
    stage.asked                    # ["2.root", "timestamp", "1.snapshot", "1.targets"]
    stage.trusted                  # {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1}
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from tuf.api.metadata import Metadata

from tests.support.ota_forge import Forge
from tests.support.ota_server import FileServer

__all__ = ["ALL_AT_1", "LONG_AGO", "Stage"]

ALL_AT_1 = {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Stage:
    """One client and one repository.

    Attributes:
        forge: The repository.
        server: What serves it.
    """

    def __init__(
        self, folder: Path, server: FileServer, client: Callable[[Sequence[str]], int]
    ) -> None:
        self.forge = Forge.create(server.folder)
        self.server = server
        self._client = client
        self._metadata = folder / "client-metadata"
        self._targets = folder / "client-targets"
        self._root = folder / "trusted-root.json"
        for each in (self._metadata, self._targets):
            each.mkdir()
        self._root.write_bytes(self.forge.path("root", 1).read_bytes())

    def init(self, root: bytes | None = None) -> int:
        """Run ``init`` with the first root, or with another."""
        if root is not None:
            self._root.write_bytes(root)
        return self._run("init", str(self._root))

    def refresh(self) -> int:
        """Run ``refresh``; what is asked is counted from here."""
        self.server.forget_requests()
        return self._run("--metadata-url", f"{self.server.url}/metadata", "refresh")

    def download(self, name: str) -> int:
        """Run ``download``; what is asked is counted from here."""
        self.server.forget_requests()
        where = ["--target-base-url", f"{self.server.url}/targets", "--target-dir"]
        url = ["--metadata-url", f"{self.server.url}/metadata", "--target-name", name]
        return self._run(*url, *where, str(self._targets), "download")

    @property
    def asked(self) -> list[str]:
        """Names of the metadata that was asked for, without ``.json``."""
        found = [each.removeprefix("metadata/") for each in self.server.gets if "metadata/" in each]
        return [each.removesuffix(".json") for each in found]

    @property
    def fetched(self) -> list[str]:
        """Targets that were asked for, without the prefix of their hash."""
        found = [each for each in self.server.gets if each.startswith("targets/")]
        return [each.removeprefix("targets/").partition(".")[2] for each in found]

    @property
    def trusted(self) -> dict[str, int]:
        """Version of each role's metadata that the client keeps."""
        return {
            unquote(path.stem): Metadata.from_bytes(path.read_bytes()).signed.version
            for path in sorted(self._metadata.glob("*.json"))
        }

    @property
    def downloaded(self) -> set[bytes]:
        """Contents of all that the client keeps of targets."""
        return {path.read_bytes() for path in self._targets.rglob("*") if path.is_file()}

    def _run(self, *arguments: str) -> int:
        return self._client(["--metadata-dir", str(self._metadata), *arguments])
