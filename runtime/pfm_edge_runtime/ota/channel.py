"""A channel: which bundle of a model is current, and for which devices.

Owns the file's form, and who is meant by it. The channel is a target of TUF, which says that it is
authentic and fresh::

    channel = Channel.parse(text)
    release = channel.release_for(device, cohort=None, now="2026-11-24T10:00:00Z")

While a rollout lasts there are two releases: the *stable* one, and the *candidate* for those whom
the rollout includes. A device never goes back: one that has the candidate, or what the candidate
was before it was issued again, follows it even where the rollout is held; and a rollout is taken
back by issuing the old classes once more, at a later place.

Canonical JSON::

    {"candidate":null,"format":"pfm-channel/1","model_id":"sha256:…",
     "stable":{"epoch":1,"sequence":7,"statement":"<64 hex>","target":"bundles/…/1-7.safetensors"}}

A candidate has one more key, ``"rollout":{"cohorts":[],"follows":[],"held":false,
"not_before":null,"percent":10,"salt":"<32 hex>"}``.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from itertools import pairwise

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse_canonical,
)
from pfm_edge_runtime.bundle import Place, StatementDigest
from pfm_edge_runtime.digest import HEX64, is_digest
from pfm_edge_runtime.errors import ChannelError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota.names import bundle_target
from pfm_edge_runtime.state import is_time

__all__ = ["MAX_CHANNEL_BYTES", "Channel", "Release", "Rollout", "is_cohort", "share_of"]

MAX_CHANNEL_BYTES = 2**16
_FORMAT = "pfm-channel/1"
_SALT = re.compile(r"[0-9a-f]{32}")
_COHORT = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_MAX_COHORTS = 100
_MAX_FOLLOWED = 50
_PARTS = 10_000  # of the fleet: a device is in one of them
_PARTS_A_PERCENT = 100
_LIMITS = JsonLimits(max_bytes=MAX_CHANNEL_BYTES, max_depth=4, max_containers=8, max_values=400)


def share_of(salt: str, device: str) -> int:
    """Return which of the 10,000 parts of a fleet a device is in: ``0`` to ``9999``.

    It is the SHA-256 of salt and device (the ASCII text of both), modulo 10,000.

    Args:
        salt: The rollout's; another one draws another order of the fleet.
        device: Id of the device's key, 64 hexadecimal digits.
    """
    return int(hashlib.sha256((salt + device).encode("ascii")).hexdigest(), 16) % _PARTS


def is_cohort(name: str) -> bool:
    """Tell whether a name may be that of a cohort: 1 to 32 of a-z, 0-9 and . _ -."""
    return _COHORT.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Rollout:
    """Which devices a candidate is for.

    Attributes:
        percent: So much of the fleet, 1 to 100: the parts below 100 times this.
        salt: Draws the order in which devices come; 32 hexadecimal digits.
        not_before: Not earlier than this, UTC to the second, if it is given.
        cohorts: Names of the cohorts that it is for, ascending; empty: for every device.
        held: Whether no further device shall take it for now.
        follows: Statements that the candidate had before it was issued again, the oldest first.
    """

    percent: int
    salt: str
    not_before: str | None = None
    cohorts: tuple[str, ...] = ()
    held: bool = False
    follows: tuple[StatementDigest, ...] = ()

    def __post_init__(self) -> None:
        if type(self.percent) is not int or not 1 <= self.percent <= 100:  # noqa: PLR2004 (percent)
            raise ChannelError("a rollout's percent is an integer from 1 to 100")
        if _SALT.fullmatch(self.salt) is None:
            raise ChannelError("a rollout's salt is 32 hexadecimal digits")
        if self.not_before is not None and not is_time(self.not_before):
            raise ChannelError("a rollout's not_before is no time in UTC to the second")
        if len(self.cohorts) > _MAX_COHORTS or not all(map(is_cohort, self.cohorts)):
            raise ChannelError("a cohort's name has 1 to 32 of a-z, 0-9 and . _ -")
        if any(one >= other for one, other in pairwise(self.cohorts)):
            raise ChannelError("the cohorts must ascend, each named once")
        digests = all(HEX64.fullmatch(each) for each in self.follows)
        if not digests or len(self.follows) > _MAX_FOLLOWED:
            raise ChannelError(f"a rollout follows at most {_MAX_FOLLOWED} statements, by digest")

    def after(self, statement: StatementDigest) -> "Rollout":
        """Return the rollout of a candidate that is issued again.

        Args:
            statement: What the candidate's statement was up to now.
        """
        return replace(self, follows=(*self.follows, statement)[-_MAX_FOLLOWED:])

    def includes(self, device: str, *, cohort: str | None, now: str) -> bool:
        """Tell whether a device may take the candidate.

        Args:
            device: Id of its key.
            cohort: The cohort that it is in, if any.
            now: The time, as far as the device knows.
        """
        if self.held or (self.not_before is not None and now < self.not_before):
            return False
        if self.cohorts and cohort not in self.cohorts:
            return False
        return share_of(self.salt, device) < self.percent * _PARTS_A_PERCENT


@dataclass(frozen=True, slots=True)
class Release:
    """A bundle that was published.

    Attributes:
        epoch: With ``sequence``, its place.
        sequence: As ``epoch``.
        statement: Digest of its statement's payload.
        target: Its target path.
        rollout: Whom it is for; ``None`` for a stable one: for all.
    """

    epoch: int
    sequence: int
    statement: StatementDigest
    target: str
    rollout: Rollout | None = None

    @property
    def place(self) -> Place:
        """Its place, as a bundle states it."""
        return Place(self.epoch, self.sequence, self.statement)


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel that is well formed.

    Attributes:
        model_id: The model.
        stable: What every device may take; ``None`` until a first rollout has ended.
        candidate: What some may take; its place is above that of ``stable``.
    """

    model_id: ModelId
    stable: Release | None = None
    candidate: Release | None = None

    def __post_init__(self) -> None:
        if not is_digest(self.model_id):
            raise ChannelError("it names no model")
        for release in filter(None, (self.stable, self.candidate)):
            self._check(release)
        if (self.stable and self.stable.rollout) or (self.candidate and not self.candidate.rollout):
            raise ChannelError("a candidate has a rollout, and nothing else has")
        if self.stable and self.candidate and not _below(self.stable, self.candidate):
            raise ChannelError("its candidate is not above its stable release")

    def release_for(
        self,
        device: str,
        *,
        cohort: str | None,
        now: str,
        installed: StatementDigest | None = None,
    ) -> Release | None:
        """Return the release that a device shall have, as :meth:`Rollout.includes` tells.

        Args:
            device: Id of its key.
            cohort: The cohort that it is in, if any.
            now: The time, as far as the device knows.
            installed: The statement that it has; one that has the candidate keeps to it.
        """
        candidate = self.candidate
        if candidate is None or candidate.rollout is None:
            return self.stable
        rollout = candidate.rollout
        keeps = installed in (candidate.statement, *rollout.follows)
        return (
            candidate if keeps or rollout.includes(device, cohort=cohort, now=now) else self.stable
        )

    @classmethod
    def parse(cls, text: bytes) -> "Channel":
        """Read a channel.

        Raises:
            ChannelError: It is none.
        """
        try:
            value = parse_canonical(text, _LIMITS)
        except StrictJsonError as error:
            raise ChannelError(f"it {error}") from error
        match value:
            case {
                "format": str(form),
                "model_id": str(model_id),
                "stable": stable,
                "candidate": candidate,
                **rest,
            } if form == _FORMAT and not rest:
                return cls(ModelId(model_id), _release(stable), _release(candidate))
        raise ChannelError(f"it is no {_FORMAT}")

    def to_bytes(self) -> bytes:
        """Write it; equal channels give equal bytes."""
        return canonical(
            {
                "format": _FORMAT,
                "model_id": self.model_id,
                "stable": _fields(self.stable),
                "candidate": _fields(self.candidate),
            }
        )

    def _check(self, release: Release) -> None:
        numbers = (release.epoch, release.sequence)
        if any(type(each) is not int or each < 1 for each in numbers):
            raise ChannelError("a release has no place")
        if HEX64.fullmatch(release.statement) is None:
            raise ChannelError("a release names no statement")
        if release.target != bundle_target(self.model_id, *numbers):
            raise ChannelError("a release's target is not where a bundle of its place lies")


def _below(one: Release, other: Release) -> bool:
    return (one.epoch, one.sequence) < (other.epoch, other.sequence)


def _release(value: JsonValue) -> Release | None:
    if value is None:
        return None
    match value:
        case {
            "epoch": int(epoch),
            "sequence": int(sequence),
            "statement": str(statement),
            "target": str(target),
            **rest,
        } if isinstance(value, dict) and rest.keys() <= {"rollout"}:
            rollout = _rollout(value["rollout"]) if rest else None
            return Release(epoch, sequence, StatementDigest(statement), target, rollout)
    raise ChannelError("a release is not of its form")


def _rollout(value: JsonValue) -> Rollout:
    match value:
        case {
            "percent": int(percent),
            "salt": str(salt),
            "not_before": None | str() as not_before,
            "cohorts": list(cohorts),
            "held": bool(held),
            "follows": list(follows),
            **rest,
        } if not rest and all(isinstance(each, str) for each in (*cohorts, *follows)):
            followed = tuple(StatementDigest(str(each)) for each in follows)
            return Rollout(percent, salt, not_before, tuple(map(str, cohorts)), held, followed)
    raise ChannelError("a rollout is not of its form")


def _fields(release: Release | None) -> JsonValue:
    if release is None:
        return None
    found: dict[str, JsonValue] = {
        "epoch": release.epoch,
        "sequence": release.sequence,
        "statement": release.statement,
        "target": release.target,
    }
    if (rollout := release.rollout) is not None:
        found["rollout"] = {
            "percent": rollout.percent,
            "salt": rollout.salt,
            "not_before": rollout.not_before,
            "cohorts": list(rollout.cohorts),
            "held": rollout.held,
            "follows": list(rollout.follows),
        }
    return found
