"""Publishing a bundle: for all devices, or for some of them first.

Owns what `pfm-edge ota publish` does::

    publish(repository, Path("model"))
    publish(repository, Path("model"), rollout=RolloutRequest(percent=10))

A bundle is issued again, at the repository's next place, unless it stands at one that comes after
all others of its model. Whoever signed it before does not matter: the bundle keys sign it here.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pfm_edge._bundles import read_bundle
from pfm_edge.ota._draft import Draft
from pfm_edge.ota._issue import reissued
from pfm_edge.ota._keys import Signers
from pfm_edge.ota._repository import Outcome, PublisherRepository, Work
from pfm_edge.registry import Registry, read_registry
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.errors import EnvelopeError, UpdateError
from pfm_edge_runtime.ota.channel import Channel, Release, Rollout

__all__ = ["RolloutRequest", "publish"]

_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Whom a bundle is for at first.

    Attributes:
        percent: So much of the fleet, 1 to 100.
        cohorts: Only these cohorts; all if there are none.
        not_before: Not earlier than this, UTC to the second.
    """

    percent: int = 100
    cohorts: tuple[str, ...] = ()
    not_before: str | None = None

    def draw(self) -> Rollout:
        """Return the rollout, with an order of the fleet of its own.

        Raises:
            ChannelError: It makes no sense.
        """
        cohorts = tuple(sorted(set(self.cohorts)))
        return Rollout(self.percent, secrets.token_hex(16), self.not_before, cohorts)


def publish(
    repository: PublisherRepository,
    bundle: Path | Bundle,
    *,
    rollout: RolloutRequest | None = None,
    signers: Signers | None = None,
) -> Outcome:
    """Publish a bundle.

    Args:
        repository: Where.
        bundle: The bundle, its file, or the package that it lies in.
        rollout: Whom it is for at first; ``None``: for all, at once.
        signers: The keys at hand; the remembered ones by default.

    Raises:
        UpdateError: It holds a class that was forgotten, or one that the registry does not know;
            or it was issued in the future.
        BundleError: It breaks the format.
        RepositoryError: Another change waits for signatures.
    """
    found = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    with repository.work(signers) as work:
        _require_known(found, read_registry(work.settings.registry))
        _require_past(found, work.now)
        if rollout is None and (place := _published(found, work)):
            return Outcome(True, (f"it is published already, as bundle {place}",))
        draft = Draft(work, "publish")
        channel = work.current.channel(found.model_id)
        placed = _placed(found, draft, channel)
        release = draft.put_bundle(placed)
        if rollout is None:
            made = Channel(found.model_id, stable=release)
        else:
            stable = None if channel is None else channel.stable
            candidate = Release(
                release.epoch, release.sequence, release.statement, release.target, rollout.draw()
            )
            made = Channel(found.model_id, stable, candidate)
        draft.put_channel(made)
        return draft.settle()


def _published(bundle: Bundle, work: Work) -> str:
    """Return the place where the very same classes are for all devices; empty if nowhere."""
    channel = work.current.channel(bundle.model_id)
    if channel is None or channel.stable is None or channel.candidate is not None:
        return ""
    live = work.current.bundle_if_there(channel.stable)
    same = (
        live is not None
        and set(live.entry_digests) == set(bundle.entry_digests)
        and live.statement.manifests == bundle.statement.manifests
        and live.inputs == bundle.inputs
    )
    return f"{channel.stable.epoch}-{channel.stable.sequence}" if same else ""


def _placed(bundle: Bundle, draft: Draft, channel: Channel | None) -> Bundle:
    """Return the bundle at a place that comes next: as it is, if it stands at such a one."""
    statement = bundle.statement
    place = draft.next_place(bundle.model_id, channel)
    whole = len(statement.entry_digests) == len(bundle)
    if statement.epoch == place[0] and statement.sequence >= place[1]:
        if whole and _signatures_hold(bundle):
            return bundle
        # Devices may have it, with what it lacks now: it must come after itself.
        place = (place[0], statement.sequence + 1)
    return reissued(bundle, place=place, issued_at=draft.work.now)


def _signatures_hold(bundle: Bundle) -> bool:
    try:
        bundle.envelope.signers()
    except EnvelopeError:
        return False
    return True


def _require_known(bundle: Bundle, registry: Registry) -> None:
    forgotten = set(registry.forgotten)
    for class_id in bundle.class_ids:
        if class_id in forgotten:
            raise UpdateError(
                f"the bundle holds class {class_id}, which was forgotten: export it again"
            )
    unknown = [each for each in bundle.class_ids if not registry.knows(each)]
    if unknown:
        raise UpdateError(
            f"the registry does not know {len(unknown)} of the bundle's classes, {unknown[0]} for "
            "one: give ota init the registry that the run uses"
        )


def _require_past(bundle: Bundle, now: datetime) -> None:
    """Refuse a time that would let devices' idea of the time run ahead."""
    issued_at = datetime.fromisoformat(bundle.statement.issued_at).astimezone(UTC)
    if issued_at > now + _AHEAD:
        raise UpdateError(
            f"the bundle says that it was issued at {bundle.statement.issued_at}, and here it is "
            f"{now:%Y-%m-%dT%H:%M:%SZ}: set the clocks, and export it again"
        )
