"""Which release a device shall have, and where it lies.

Owns the reading of a channel and the choice::

    channel = read_channel(repository, model_id, cache)
    outcome, release = choose(channel, device=device_id, now=now, …)
    target = find_bundle(repository, release)
"""

from typing import TYPE_CHECKING

from pfm_edge_runtime.bundle import Place, VerifiedBundle
from pfm_edge_runtime.errors import ChannelError, RepositoryError, UpdateError, VerificationError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.ota._repository import Repository
from pfm_edge_runtime.ota.channel import MAX_CHANNEL_BYTES, Channel, Release
from pfm_edge_runtime.ota.names import channel_target

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

__all__ = ["choose", "find_bundle", "read_channel", "require_place"]


def read_channel(repository: Repository, model_id: ModelId, cache: Cache) -> Channel:
    """Read the channel of a model: from the cache, if it is the one that is meant.

    Raises:
        UpdateError: There is none; also ChannelError, RepositoryError and FetchError.
    """
    found = repository.find(channel_target(model_id))
    if found is None:
        raise UpdateError(
            f"{repository.name} has no channel for model {model_id[:19]}…: it is a repository of "
            "other models, or nothing was published for this one yet"
        )
    text = cache.read_known(found.path, found.hashes["sha256"], MAX_CHANNEL_BYTES)
    if text is None:
        text = repository.read(found, most=MAX_CHANNEL_BYTES)
        cache.keep(found.path, text)
    try:
        channel = Channel.parse(text)
    except ChannelError as error:
        raise ChannelError(f"{repository.name}: {found.path}: {error}") from error
    if channel.model_id != model_id:
        raise ChannelError(f"{repository.name}: {found.path} is the channel of another model")
    return channel


def choose(
    channel: Channel,
    *,
    device: str,
    cohort: str | None,
    now: str,
    floor: Place | None,
    sound: bool,
) -> tuple[str, Release | None]:
    """Return what there is to take, or a word for why there is nothing.

    Args:
        channel: What is published.
        device: Id of the device's key.
        cohort: The cohort that it is in, if any.
        now: The time, as far as the device knows.
        floor: The highest place that it has installed.
        sound: Whether it can use what lies in its package.

    Returns:
        ``"updated"`` and the release, or the outcome and ``None``.

    Raises:
        RepositoryError: The repository states another bundle where the device has one.
    """
    _require_one_bundle(channel, floor)
    installed = None if floor is None else floor.statement
    release = channel.release_for(device, cohort=cohort, now=now, installed=installed)
    if release is not None and not _is_here(release, floor, sound=sound):
        return "updated", release
    candidate = channel.candidate
    if candidate is None or candidate is release or candidate.place == floor:
        return "up-to-date", None
    held = candidate.rollout is not None and candidate.rollout.held
    return ("held-back" if held else "not-included"), None


def find_bundle(repository: Repository, release: Release) -> "TargetFile":
    """Find the file of a release.

    Raises:
        RepositoryError: Its epoch is above the root's version, or the metadata does not list it.
    """
    if release.epoch > repository.version:
        raise RepositoryError(
            f"{repository.name}: its bundle states epoch {release.epoch}, and its root is version "
            f"{repository.version}: the publisher must issue the bundle again"
        )
    target = repository.find(release.target)
    if target is None:
        raise RepositoryError(
            f"{repository.name}: its channel names {release.target}, which its metadata does not "
            "list: the publisher must publish it again"
        )
    return target


def require_place(bundle: VerifiedBundle, release: Release) -> None:
    """Require that a bundle is the one that the channel announces.

    Raises:
        VerificationError: It is not.
    """
    if bundle.place != release.place:
        raise VerificationError(
            "the bundle is not the one that the channel announces: the publisher must publish it "
            "again"
        )


def _require_one_bundle(channel: Channel, floor: Place | None) -> None:
    """Require that no release stands where this device had another one.

    They are compared by their statements: what is forgotten here changes a bundle, not that.
    """
    for release in filter(None, (channel.stable, channel.candidate)):
        place = release.place
        if floor is None or (place.epoch, place.sequence) != (floor.epoch, floor.sequence):
            continue
        if place.statement != floor.statement:
            raise RepositoryError(
                f"the publisher states two bundles at epoch {place.epoch}, sequence "
                f"{place.sequence}: this is not the one that this device had; the publisher must "
                "issue another, at the next place"
            )


def _is_here(release: Release, floor: Place | None, *, sound: bool) -> bool:
    """Tell whether a device has a release, or a later one."""
    if floor is None:
        return False
    here, there = (floor.epoch, floor.sequence), (release.epoch, release.sequence)
    # What is damaged or gone is fetched again; an older one would be refused.
    return here > there or (here == there and sound)
