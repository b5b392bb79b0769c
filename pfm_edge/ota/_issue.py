"""Issuing bundles: the same classes at a later place, or fewer of them.

Owns what a bundle becomes when it must be issued anew::

    place = epoch, last_sequence(channel, epoch) + 1
    reissued(bundle, place=place, issued_at=now, without=[class_id])

The epoch is the version of the root, so that a stolen bundle key cannot run ahead of the next
rotation; within an epoch the sequence counts from 1.
"""

from collections.abc import Collection
from datetime import datetime

from pfm_edge_runtime.bundle import Bundle, ClassId
from pfm_edge_runtime.errors import BundleError, UpdateError
from pfm_edge_runtime.ota.channel import Channel, Release, Rollout
from pfm_edge_runtime.ota.names import bundle_target

__all__ = ["last_sequence", "reissued", "release_of"]


def last_sequence(channel: Channel | None, epoch: int) -> int:
    """Return the highest sequence that a channel has in an epoch; 0 where it has none."""
    if channel is None:
        return 0
    releases = [each for each in (channel.stable, channel.candidate) if each is not None]
    return max((each.sequence for each in releases if each.epoch == epoch), default=0)


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
