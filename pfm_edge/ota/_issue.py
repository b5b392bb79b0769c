"""Issuing bundles: the same classes at a later place, or fewer of them.

Owns what a bundle becomes when it must be issued anew::

    place = epoch, last_sequence(places, epoch) + 1
    reissued(bundle, place=place, issued_at=now, without=[class_id])

The epoch is the version of the root, so that a stolen bundle key cannot run ahead of the next
rotation; within an epoch the sequence counts from 1.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime

from pfm_edge_runtime.bundle import Bundle, ClassId
from pfm_edge_runtime.errors import BundleError, UpdateError
from pfm_edge_runtime.ota.channel import Channel, Release, Rollout
from pfm_edge_runtime.ota.names import bundle_target

__all__ = [
    "BUNDLES_FOLDER",
    "CHANNELS_FOLDER",
    "channels_of",
    "last_sequence",
    "reissued",
    "release_of",
    "releases_of",
]

BUNDLES_FOLDER = "bundles/"
"""Folder of the targets that are bundles."""

CHANNELS_FOLDER = "channel/"
"""Folder of the targets that are channels."""


def channels_of(targets: Mapping[str, bytes]) -> Iterator[Channel]:
    """Yield the channels among targets, by their paths."""
    for path, data in sorted(targets.items()):
        if path.startswith(CHANNELS_FOLDER):
            yield Channel.parse(data)


def releases_of(channel: Channel | None) -> list[Release]:
    """Return what a channel names: the stable release first, then the candidate."""
    if channel is None:
        return []
    return [each for each in (channel.stable, channel.candidate) if each is not None]


def last_sequence(places: Iterable[tuple[int, int]], epoch: int) -> int:
    """Return the highest sequence of some places in an epoch; 0 where none is in it."""
    return max((each[1] for each in places if each[0] == epoch), default=0)


def reissued(
    bundle: Bundle,
    *,
    place: tuple[int, int],
    issued_at: datetime,
    without: Collection[ClassId] = (),
) -> Bundle:
    """Issue the classes of a bundle once more, unsigned: same entries, same salts.

    Args:
        bundle: The bundle.
        place: Epoch and sequence.
        issued_at: The time of issue.
        without: Classes to leave out; nothing of them stays, not even a digest.

    Raises:
        UpdateError: It cannot be issued.
    """
    epoch, sequence = place
    try:
        return Bundle.build(
            model_id=bundle.model_id,
            manifest_digests=bundle.statement.manifests,
            inputs=bundle.inputs,
            entries=[each for each in bundle.entries if each.class_id not in without],
            issued_at=issued_at,
            epoch=epoch,
            sequence=sequence,
        )
    except BundleError as error:
        raise UpdateError(f"the bundle cannot be issued again: {error}") from error


def release_of(bundle: Bundle, rollout: Rollout | None = None) -> Release:
    """Describe a bundle for a channel."""
    statement = bundle.statement
    place = statement.epoch, statement.sequence
    target = bundle_target(bundle.model_id, *place)
    return Release(*place, bundle.statement_digest, target, rollout)
