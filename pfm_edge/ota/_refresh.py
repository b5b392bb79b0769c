"""Signing anew what would expire: the one thing that a scheduler does with a repository.

Owns what `pfm-edge ota refresh` does::

    refreshed = refresh(repository)
    refreshed.signed, refreshed.left         # roles; what somebody must see to, in lines

The timestamp is signed each time, because its expiry bounds how long a mirror can hold an old state
up. A snapshot is signed when half of its days are over, the others when a third is left, and only
where the keys are at hand. A change that waits for signatures stays as it is. What is served is
compared with the publisher's own copies first, and put back from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pfm_edge.ota._draft import Draft
from pfm_edge.ota._journal import is_change, load
from pfm_edge.ota._keys import Signers
from pfm_edge.ota._repository import Outcome, PublisherRepository, Work
from pfm_edge.ota._roles import Role
from pfm_edge.ota._served import lost_files, mend, stray_files

__all__ = ["Left", "Refreshed", "refresh"]

_PART = {Role.SNAPSHOT: 1 / 2, Role.TIMESTAMP: 1}
_USUAL_PART = 1 / 3


@dataclass(frozen=True, slots=True)
class Left:
    """A role whose metadata will expire, and that could not be signed.

    Attributes:
        role: The role.
        expires: When.
        expired: Whether that is over.
        reason: Why it was not signed, and what to do.
    """

    role: Role
    expires: datetime
    expired: bool
    reason: str

    def __str__(self) -> str:
        verb = "expired" if self.expired else "expires"
        return f"{self.role} {verb} on {self.expires:%Y-%m-%d %H:%M} UTC: {self.reason}"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did.

    Attributes:
        outcome: What was published.
        left: What could not be signed.
        mended: What was missing or altered where it is served, and was put back; lines.
        lost: What could not be put back, and what to do; lines.
        strays: Files beside what is served that may hold a class; lines.
    """

    outcome: Outcome
    left: tuple[Left, ...]
    mended: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()

    @property
    def signed(self) -> tuple[Role, ...]:
        """The roles that hold longer now."""
        return self.outcome.roles

    @property
    def fresh(self) -> bool:
        """Whether devices can go on: the timestamp is signed, nothing has expired or is lost."""
        expired = any(each.expired for each in self.left)
        return Role.TIMESTAMP in self.signed and not expired and not self.lost

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        left = [
            {
                "role": each.role.value,
                "expires": f"{each.expires:%Y-%m-%dT%H:%M:%SZ}",
                "expired": each.expired,
                "reason": each.reason,
            }
            for each in self.left
        ]
        return {
            "fresh": self.fresh,
            "signed": [*map(str, self.signed)],
            "left": left,
            "mended": [*self.mended],
            "lost": [*self.lost],
            "strays": [*self.strays],
        }


def refresh(repository: PublisherRepository, *, signers: Signers | None = None) -> Refreshed:
    """Sign anew what would expire and whose keys are at hand; put back what is served no more.

    Args:
        repository: Where.
        signers: The keys at hand; the remembered ones by default.

    Raises:
        RepositoryError: Nothing was published yet, or the repository is not sound.
        StorageError: The disk refused.
    """
    with repository.work(signers, pending=True) as work:
        work.require_published()
        found = mend(work.current), lost_files(work.current), stray_files(work.current)
        waiting = _waiting(repository)
        due = [role for role in Role if _due(role, work)]
        left = [*_left(due, waiting, work)]
        able = [each for each in due if each not in {item.role for item in left}]
        if Role.SNAPSHOT not in due and set(able) - {Role.ROOT, Role.TIMESTAMP}:
            left += _left([Role.SNAPSHOT], waiting, work)  # it has to name what is signed anew
        if any(item.role.online for item in left):
            outcome = Outcome(False, unavailable=dict(work.signers.reasons))
            return Refreshed(outcome, tuple(left), *found)
        draft = Draft(work, "refresh")
        for role in able:
            draft.renew(role)
        return Refreshed(draft.settle(), tuple(left), *found)


def _due(role: Role, work: Work) -> bool:
    left = work.current.expires(role) - work.now
    whole = work.settings.days[role] * 86_400
    return left.total_seconds() <= whole * _PART.get(role, _USUAL_PART)


def _waiting(repository: PublisherRepository) -> set[Role]:
    pending = repository.layout.pending
    return set(load(pending).change.metadata) if is_change(pending) else set()


def _left(due: list[Role], waiting: set[Role], work: Work) -> Iterator[Left]:
    for role in due:
        reason = ""
        if role in waiting and not role.online:
            reason = "a change to it waits for signatures: sign or abandon that"
        elif missing := _missing(role, work):
            reason = missing
        if reason:
            expires = work.current.expires(role)
            yield Left(role, expires, expires <= work.now, reason)


def _missing(role: Role, work: Work) -> str:
    """Say whose signatures cannot be had, if they are needed."""
    threshold, keys = work.current.authority.keys(role)
    absent = [each for each in keys if work.signers.of(each) is None]
    count = threshold - (len(keys) - len(absent))
    if count <= 0:
        return ""
    names = ", ".join(f"{each[:16]}…" for each in absent)
    return f"it needs {count} more of the keys {names}: pfm-edge ota refresh REPO --key KEY"
