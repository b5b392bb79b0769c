"""A change of bundles, channels or the forget list, before anybody signed it.

Owns how new targets get into new metadata::

    draft = Draft(work, "publish")
    draft.put_bundle(bundle)
    draft.put_channel(channel)
    draft.settle()

Bundles that no channel names any more are left out of the new metadata, and so their files go. So
are bundles whose files are lost, with a note, where a change cannot wait for them: whatever comes
back under such a name later is no part of the repository.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pfm_edge.ota._change import RESTORED, Change
from pfm_edge.ota._issue import last_sequence, reissued, release_of, releases_of
from pfm_edge.ota._metadata import AnyMetadata, next_version, target_file
from pfm_edge.ota._repository import Outcome, Work
from pfm_edge.ota._roles import Role
from pfm_edge.registry import read_registry
from pfm_edge_runtime.bundle import Bundle, ClassId
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota.channel import Channel, Release
from pfm_edge_runtime.ota.forget_list import ForgetList, ForgetRow
from pfm_edge_runtime.ota.names import FORGET_FILE, channel_target

__all__ = ["Draft"]

_WAITING_FOR_NO_FILE = {"publish", "forget", "rotate-key", RESTORED}
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(slots=True)
class Draft:
    """A change in the making.

    Attributes:
        work: The repository.
        kind: What a person asked for.
        metadata: New versions by role.
        targets: New targets by path.
        notes: What a person must know of it, besides what it does.
    """

    work: Work
    kind: str
    metadata: dict[Role, AnyMetadata] = field(default_factory=dict)
    targets: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """The version of the root that the change leads to."""
        return int(
            self.metadata.get(Role.ROOT, self.work.current.metadata[Role.ROOT]).signed.version
        )

    def renew(self, role: Role) -> AnyMetadata:
        """Return the next version of a role's metadata, the same each time."""
        if role not in self.metadata:
            found = self.work.current.metadata[role]
            self.metadata[role] = next_version(found, self.work.expires(role))
        return self.metadata[role]

    def next_place(self, model_id: ModelId, channel: Channel | None) -> tuple[int, int]:
        """Return where the next bundle of a model goes: after all that its devices may have."""
        places = [(each.epoch, each.sequence) for each in releases_of(channel)]
        places.append(self.work.mark.place(model_id))
        return self.epoch, last_sequence(places, self.epoch) + 1

    def put_bundle(self, bundle: Bundle) -> Release:
        """Add a bundle; its signatures come when the change is signed."""
        release = release_of(bundle)
        self._put(Role.BUNDLES, release.target, bundle.to_bytes())
        return release

    def put_channel(self, channel: Channel) -> Channel:
        """Add a model's channel, and drop the bundles that it no longer names.

        Returns:
            The channel as it will be: without releases whose bundles are lost.
        """
        channel = Channel(channel.model_id, self._had(channel.stable), self._had(channel.candidate))
        self._put(Role.BUNDLES, channel_target(channel.model_id), channel.to_bytes())
        named = {each.target for each in releases_of(channel)}
        targets = self.renew(Role.BUNDLES).signed.targets
        folder = f"bundles/{channel.model_id.removeprefix('sha256:')}/"
        for path in [each for each in targets if each.startswith(folder) and each not in named]:
            del targets[path]
        return channel

    @property
    def now(self) -> str:
        """The time, as statements spell it."""
        return self.work.now.strftime(_TIME)

    def next_forget_list(self, new: Iterable[ForgetRow] = ()) -> ForgetList:
        """Return the forget list with more rows, or as it was, to be signed anew."""
        before = self.work.current.forget_list
        rows = sorted((*before.rows, *new), key=lambda each: each.class_id)
        number = max(before.number, self.work.mark.forget_list) + 1
        return ForgetList(number, self.now, tuple(rows))

    def put_forget_list(self, forget_list: ForgetList) -> None:
        """Add the forget list."""
        self._put(Role.FORGET, FORGET_FILE, forget_list.seal([]))

    def reissue(
        self,
        channel: Channel,
        *,
        without: frozenset[ClassId] = frozenset(),
        after: Channel | None = None,
    ) -> Channel:
        """Issue all live bundles of a channel once more, at the next places.

        Args:
            channel: The bundles.
            without: Classes that they shall not hold any more, besides those that the registry
                has on its forget list.
            after: The channel that the new places come after; the same by default.

        Returns:
            The channel as it will be: without releases whose bundles are lost.
        """
        place = self.next_place(channel.model_id, after or channel)
        made = []
        for release in (self._had(channel.stable), self._had(channel.candidate)):
            made.append(release and self._again(release, place, without))
            place = (place[0], place[1] + (release is not None))
        return self.put_channel(Channel(channel.model_id, *made))

    def settle(self) -> Outcome:
        """Sign it with the keys at hand, and publish it if that is enough; as ``Work.settle``."""
        outcome = self.work.settle(self.change())
        return replace(outcome, notes=(*outcome.notes, *self.notes))

    def change(self) -> Change:
        """Return what is to be signed."""
        return Change(self.kind, self.metadata, self.targets)

    def _had(self, release: Release | None) -> Release | None:
        """Return a release, unless its bundle is lost.

        Raises:
            RepositoryError: It is lost, and this change can wait until it is put back.
        """
        if release is None or release.target in self.targets:
            return release
        if self.kind not in _WAITING_FOR_NO_FILE:
            self.work.current.bundle(release)
        if self.work.current.bundle_if_there(release) is not None:
            return release
        self.notes.append(
            f"bundle {release.epoch}-{release.sequence} cannot be read, and is not offered any "
            f"more: publish its classes again ({self.work.current.path(release.target)})"
        )
        return None

    def _again(
        self, release: Release, place: tuple[int, int], without: frozenset[ClassId]
    ) -> Release:
        bundle = self.work.current.bundle(release)
        gone = without.union(read_registry(self.work.settings.registry).forgotten)
        again = reissued(bundle, place=place, issued_at=self.work.now, without=gone)
        made = self.put_bundle(again)
        rollout = release.rollout and release.rollout.after(release.statement)
        return Release(*place, made.statement, made.target, rollout)

    def _put(self, role: Role, path: str, data: bytes) -> None:
        self.renew(role).signed.targets[path] = target_file(path, data)
        self.targets[path] = data
