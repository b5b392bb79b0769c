"""What is in force: the publisher's own copy of the metadata, and the targets that it names.

Owns reading it. The metadata comes from a folder that is not served; targets lie in the one that
is, so each is compared with its hash before anything is made of it: whoever can write where the web
server reads must not get a signature that way::

    current = Current.read(Layout(Path("REPO")))
    current.channels[model_id].stable
    current.bundle(release)
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError

from pfm_edge._reading import read_whole
from pfm_edge.ota._issue import BUNDLES_FOLDER, CHANNELS_FOLDER
from pfm_edge.ota._layout import Layout
from pfm_edge.ota._metadata import AnyMetadata, Authority, MetadataByRole, parse_metadata
from pfm_edge.ota._roles import Role
from pfm_edge_runtime.bundle import Bundle, BundleLimits
from pfm_edge_runtime.errors import BundleError, RepositoryError, UpdateError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota.channel import Channel, Release
from pfm_edge_runtime.ota.forget_list import ForgetList
from pfm_edge_runtime.ota.names import FORGET_FILE, METADATA_FOLDER, channel_target

__all__ = ["Current", "LostError"]

_MAX_METADATA = 1 << 26


class LostError(RepositoryError):
    """A file is gone, or is another than was published."""


@dataclass(frozen=True, slots=True)
class Current:
    """What was published last.

    Attributes:
        layout: Where it lies.
        metadata: By role; empty before the first change is complete.
    """

    layout: Layout
    metadata: MetadataByRole = field(default_factory=dict)

    @classmethod
    def read(cls, layout: Layout) -> "Current":
        """Read the metadata in force.

        Raises:
            RepositoryError: Some of it is missing or damaged.
        """
        if not any(layout.metadata(each).exists() for each in Role):
            return cls(layout)
        found = {}
        for role in Role:
            path = layout.metadata(role)
            if not path.exists():
                served = layout.public / METADATA_FOLDER
                raise RepositoryError(
                    f"{path} is missing: the repository is damaged; put it back from {served} "
                    "(the newest version of it) or from a backup"
                )
            data = read_whole(path, most=_MAX_METADATA, error=RepositoryError)
            found[role] = parse_metadata(role, data, str(path))
        return cls(layout, found)

    @property
    def authority(self) -> Authority:
        """Who may sign now."""
        root = self.metadata[Role.ROOT]
        return Authority(root, self.metadata[Role.TARGETS], root)

    @property
    def epoch(self) -> int:
        """The version of the root: new bundles get it as their epoch."""
        return int(self.metadata[Role.ROOT].signed.version)

    def expires(self, role: Role) -> datetime:
        """Return until when a role's metadata holds."""
        found: datetime = self.metadata[role].signed.expires
        return found

    @property
    def channels(self) -> dict[ModelId, Channel]:
        """The channel of every model.

        Raises:
            RepositoryError: A file is missing or is not the one that was published.
        """
        found = (Channel.parse(self.target(path)) for path in self._paths(CHANNELS_FOLDER))
        return {each.model_id: each for each in found}

    def channel(self, model_id: ModelId) -> Channel | None:
        """Return the channel of a model, if it has one."""
        path = channel_target(model_id)
        return Channel.parse(self.target(path)) if path in self._paths(path) else None

    @property
    def forget_list(self) -> ForgetList:
        """The forget list."""
        return ForgetList.parse(self.target(FORGET_FILE), None)

    def bundle(self, release: Release) -> Bundle:
        """Return a published bundle.

        Raises:
            RepositoryError: The file is missing or is not the one that was published.
        """
        try:
            return Bundle.from_bytes(self.target(release.target))
        except BundleError as error:
            raise RepositoryError(f"{release.target}: {error}") from error

    def target(self, path: str) -> bytes:
        """Read a target and compare it with the metadata in force.

        Of a channel or a forget list that is the publisher's own copy, if it has one.

        Raises:
            RepositoryError: The file is missing or is not the one that was published.
        """
        listed = self._listed(path)
        file = self.path(path)
        if self._has_own_copy(path):
            file = self.layout.kept_target(path)
        if not file.exists():
            raise LostError(f"{file}: no such file; {_way_back(path)}")
        data = read_whole(file, most=BundleLimits().max_file_bytes, error=RepositoryError)
        try:
            listed.signed.targets[path].verify_length_and_hashes(data)
        except LengthOrHashMismatchError as error:
            raise LostError(f"{file}: it is not what was published; {_way_back(path)}") from error
        return data

    def bundle_if_there(self, release: Release) -> Bundle | None:
        """Return a published bundle; ``None`` where its file is lost, or was altered.

        Raises:
            RepositoryError: The disk refuses to read it, which may pass.
        """
        try:
            return self.bundle(release)
        except LostError:
            return None

    def path(self, path: str) -> Path:
        """Return where a target lies."""
        listed = self._listed(path)
        return self.layout.public_target(path, listed.signed.targets[path].hashes["sha256"])

    def paths(self) -> list[str]:
        """Return the paths of all targets in force, by role."""
        return [path for role in _WITH_TARGETS for path in self._targets(role)]

    def small_targets(self) -> list[str]:
        """Return the paths of those that the publisher has its own copies of."""
        return [each for each in self.paths() if not each.startswith(BUNDLES_FOLDER)]

    def readable_small_targets(self) -> dict[str, bytes]:
        """Return those of them that are not lost, by path."""
        found = {}
        for path in self.small_targets():
            with suppress(RepositoryError):
                found[path] = self.target(path)
        return found

    def files(self) -> set[Path]:
        """Return the files of all targets in force."""
        return {self.path(each) for each in self.paths()}

    def _has_own_copy(self, path: str) -> bool:
        kept = self.layout.kept_target(path)
        listed = self._listed(path).signed.targets[path]
        try:
            listed.verify_length_and_hashes(read_whole(kept, most=listed.length, error=LostError))
        except (LengthOrHashMismatchError, LostError):
            return False
        return True

    def _listed(self, path: str) -> AnyMetadata:
        for role in _WITH_TARGETS:
            if path in self._targets(role):
                return self.metadata[role]
        raise UpdateError(f"{path}: no such target was published")

    def _paths(self, prefix: str) -> Iterator[str]:
        return (each for each in self._targets(Role.BUNDLES) if each.startswith(prefix))

    def _targets(self, role: Role) -> list[str]:
        return sorted(self.metadata[role].signed.targets) if self.metadata else []


_WITH_TARGETS = (Role.BUNDLES, Role.FORGET)


def _way_back(path: str) -> str:
    again = ", or publish its classes again" if path.startswith(BUNDLES_FOLDER) else ""
    return f"put it back from a backup or a mirror{again}"
