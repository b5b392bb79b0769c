"""A publisher's repository in a directory of a test: keys, classes, a clock to set, TUF's client.

Owns what the tests of `pfm_edge.ota` begin with; the client is python-tuf's own, which trusts
nothing of ours::

    publisher = Publisher.make(tmp_path)
    publish(publisher.repository, publisher.package())
    publisher.client().bundle(publisher.model_id)       # as a device that knows root.json gets it
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlparse

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from pfm_edge.ota import (
    InitRequest,
    PublisherRepository,
    Role,
    RoleKey,
    init_repository,
    new_keys,
)
from pfm_edge.registry import KnownClass, change_registry
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota.channel import Channel
from pfm_edge_runtime.ota.names import channel_target
from tests.support.tiny_package import (
    LABELS,
    MODEL_ID,
    class_tensors,
    entries,
    write_tiny_package,
)

__all__ = ["Client", "Publisher", "TestClock"]

CLASS_IDS = {each.label: each.class_id for each in entries()}


@dataclass
class TestClock:
    """A clock that stands still until it is told; it starts at the real time."""

    __test__ = False
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.now

    def forward(self, days: float) -> None:
        self.now += timedelta(days=days)


@dataclass
class Publisher:
    """A repository, and all that belongs to it."""

    directory: Path
    repository: PublisherRepository
    keys: dict[Role, list[RoleKey]]
    clock: TestClock
    model_id: ModelId = MODEL_ID

    @classmethod
    def make(cls, directory: Path, **request: object) -> "Publisher":
        """Make a repository that has published nothing; ``request`` as of ``InitRequest``."""
        registry = make_registry(directory)
        keys = new_keys(directory / "keys")
        clock = TestClock()
        made = InitRequest(registry, **({"keys": keys} | request))  # type: ignore[arg-type]
        repository, outcome = init_repository(directory / "repo", made, clock=clock)
        assert outcome.committed
        return cls(directory, repository, keys, clock)

    @property
    def public(self) -> Path:
        return self.repository.layout.public

    @property
    def registry(self) -> Path:
        return self.directory / "classes.json"

    def package(self, classes: int = len(LABELS), sequence: int = 1) -> Path:
        """Return a package that knows the first labels, written once."""
        folder = self.directory / f"package-{classes}-{sequence}"
        if not folder.exists():
            write_tiny_package(folder, classes=classes, sequence=sequence)
        return folder

    def backup(self, part: str = "") -> Callable[[], None]:
        """Copy the repository, or a part of it; what is returned puts the copy in its place."""
        place = self.repository.directory / part
        copy = shutil.copytree(place, self.directory / "backup")

        def put_back() -> None:
            shutil.rmtree(place)
            shutil.copytree(copy, place)

        return put_back

    def channel(self) -> Channel:
        return Channel.parse(self._served(channel_target(self.model_id)))

    def client(self) -> "Client":
        """Return a device that knows the first root."""
        return Client(self.public, self.directory / "client")

    def files(self) -> dict[str, bytes]:
        """Return every file of the repository."""
        top = self.repository.directory
        return {str(each.relative_to(top)): each.read_bytes() for each in _files(top)}

    def holding(self, trace: bytes) -> list[str]:
        """Return the files that hold these bytes."""
        return [name for name, data in self.files().items() if trace in data]

    def trace(self, label: str) -> bytes:
        """Return bytes that a bundle holds exactly while it holds this class."""
        return class_tensors(LABELS.index(label))["prompt_values"].tobytes()

    def _served(self, path: str) -> bytes:
        metadata = json.loads((self.repository.directory / "metadata/bundles.json").read_bytes())
        sha256 = metadata["signed"]["targets"][path]["hashes"]["sha256"]
        folder, _, name = path.rpartition("/")
        return (self.public / "targets" / folder / f"{sha256}.{name}").read_bytes()


class Client:
    """TUF's own client on a served folder."""

    def __init__(self, public: Path, cache: Path, root: bytes | None = None) -> None:
        cache.mkdir(exist_ok=True)
        self._updater = Updater(
            str(cache),
            f"file://{public}/metadata/",
            str(cache),
            f"file://{public}/targets/",
            fetcher=_Folder(),
            bootstrap=root or (public / "metadata/1.root.json").read_bytes(),
        )
        self._updater.refresh()

    def target(self, path: str) -> bytes | None:
        """Return a target, verified; ``None`` if there is none of that name."""
        info = self._updater.get_targetinfo(path)
        if info is None:
            return None
        return Path(self._updater.download_target(info)).read_bytes()

    def channel(self, model_id: ModelId) -> Channel:
        return Channel.parse(self.target(channel_target(model_id)) or b"")

    def bundle(self, model_id: ModelId, *, candidate: bool = False) -> Bundle:
        channel = self.channel(model_id)
        release = channel.candidate if candidate else channel.stable
        assert release is not None
        return Bundle.from_bytes(self.target(release.target) or b"")


class _Folder(FetcherInterface):
    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            return iter([Path(unquote(urlparse(url).path)).read_bytes()])
        except FileNotFoundError as error:
            raise DownloadHTTPError("not there", 404) from error


def make_registry(directory: Path, labels: Sequence[str] = LABELS) -> Path:
    """Write a registry that knows the tiny package's classes."""
    path = directory / "classes.json"
    known = [KnownClass(CLASS_IDS[each], each) for each in labels]
    change_registry(path, lambda registry: registry.with_classes(known), create=True)
    return path


def _files(top: Path) -> list[Path]:
    return sorted(each for each in top.rglob("*") if each.is_file())
