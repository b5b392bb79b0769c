"""Rollouts: who may take a candidate, and how one ends.

Owns what `pfm-edge ota rollout` does::

    set_rollout(repository, model_id, 50)          # half of the fleet, the first tenth included
    set_rollout(repository, model_id, "hold")      # nobody further, for now
    set_rollout(repository, model_id, "stop")      # back to the stable classes
    set_rollout(repository, model_id, 100)         # for all: the candidate is the stable one now

A device never goes back, so a rollout that is stopped is the stable bundle issued once more, after
the candidate.
"""

from collections.abc import Iterable
from dataclasses import replace

from pfm_edge.ota._draft import Draft
from pfm_edge.ota._keys import Signers
from pfm_edge.ota._repository import Outcome, PublisherRepository
from pfm_edge_runtime.errors import ConfigError, UpdateError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota.channel import Channel, Release, Rollout

__all__ = ["ALL", "find_model", "set_rollout"]

ALL = 100
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_PREFIX = "sha256:"
_LEAST_PREFIX = 6
_NARROWED = "devices that took it already keep it: stop takes it from them"


def set_rollout(
    repository: PublisherRepository,
    model: str,
    to: int | str,
    *,
    everyone: bool = False,
    signers: Signers | None = None,
) -> Outcome:
    """Change the rollout of a model's candidate.

    Args:
        repository: Where.
        model: The model's id, or how it begins.
        to: Percent of the fleet, or ``"hold"``, ``"resume"`` or ``"stop"``.
        everyone: Whether its cohorts and its date no longer count.
        signers: The keys at hand; the remembered ones by default.

    Raises:
        ConfigError: There is no such thing to do.
        UpdateError: The model has no rollout, or it cannot be changed that way now.
        RepositoryError: Another change waits for signatures.
    """
    with repository.work(signers) as work:
        channels = work.current.channels
        channel = channels[find_model(model, channels)]
        candidate = channel.candidate
        if candidate is None or candidate.rollout is None:
            raise UpdateError(f"{channel.model_id}: it has no rollout: its bundle is for all")
        draft = Draft(work, "rollout")
        rollout = candidate.rollout
        if to == "stop":
            _stop(draft, channel)
        else:
            if everyone:
                rollout = replace(rollout, cohorts=(), not_before=None)
            rollout = _changed(rollout, to)
            work.current.bundle(candidate)  # or it would widen to nothing
            draft.put_channel(_ended(channel, candidate, rollout, work.now.strftime(_TIME)))
        outcome = draft.settle()
        if isinstance(to, int) and to < candidate.rollout.percent:
            outcome = replace(outcome, notes=(*outcome.notes, _NARROWED))
        return outcome


def find_model(name: str, models: Iterable[ModelId]) -> ModelId:
    """Find a model by its id, or by how that begins.

    Raises:
        ConfigError: None of them, or several, begin like that.
    """
    digits = name.removeprefix(_PREFIX)
    found = [each for each in models if each.removeprefix(_PREFIX).startswith(digits)]
    if len(digits) < _LEAST_PREFIX or len(found) != 1:
        what = "several models begin" if len(found) > 1 else "no model of the repository begins"
        raise ConfigError(
            f"{what} with {name}: give {_LEAST_PREFIX} digits or more of one that ota status lists"
        )
    return found[0]


def _changed(rollout: Rollout, to: int | str) -> Rollout:
    match to:
        case "hold":
            return replace(rollout, held=True)
        case "resume":
            return replace(rollout, held=False)
        case int():
            return replace(rollout, percent=to)
    raise ConfigError("a rollout is set to a number of percent, or to hold, resume or stop")


def _ended(channel: Channel, candidate: Release, rollout: Rollout, now: str) -> Channel:
    """Return the channel with that rollout; one that is for all has ended."""
    later = rollout.not_before is not None and rollout.not_before > now
    if rollout.percent == ALL and not (rollout.cohorts or rollout.held or later):
        return Channel(channel.model_id, stable=replace(candidate, rollout=None))
    return replace(channel, candidate=replace(candidate, rollout=rollout))


def _stop(draft: Draft, channel: Channel) -> None:
    made = draft.reissue(replace(channel, candidate=None), after=channel)
    if made.stable is None:
        raise UpdateError(
            f"{channel.model_id}: there is no stable bundle to go back to: hold the rollout, or "
            "publish another bundle"
        )
