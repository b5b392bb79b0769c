"""The roles of a repository: who signs what, and for how long it holds.

Owns the names, and what a new repository starts with::

    Role.BUNDLES.days, Role.BUNDLES.threshold       # 180, 1

How long: whoever can hold back the timestamp (a mirror, a proxy) can keep devices on an old state
until it expires, so its days are few and a scheduler signs it anew. The others need people, or keys
that are kept apart.
"""

from enum import StrEnum

__all__ = ["DELEGATED", "Role"]


class Role(StrEnum):
    """A role, by the name that it has in TUF's metadata."""

    ROOT = "root"
    TARGETS = "targets"
    BUNDLES = "bundles"
    FORGET = "forget"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"

    @property
    def days(self) -> int:
        """For how many days its metadata holds, unless a repository says otherwise."""
        return _DAYS[self]

    @property
    def threshold(self) -> int:
        """How many of its keys must sign, unless a repository says otherwise."""
        return 2 if self is Role.ROOT else 1

    @property
    def online(self) -> bool:
        """Whether its key serves a scheduler, and therefore protects nothing by itself."""
        return self in {Role.SNAPSHOT, Role.TIMESTAMP}

    @property
    def paths(self) -> tuple[str, ...]:
        """Which targets it may sign for, as TUF's patterns; none for a role of the root."""
        return _PATHS.get(self, ())


_DAYS = {
    Role.ROOT: 365,
    Role.TARGETS: 365,
    Role.BUNDLES: 180,
    Role.FORGET: 365,
    Role.SNAPSHOT: 30,
    Role.TIMESTAMP: 7,
}
_PATHS = {Role.BUNDLES: ("bundles/*/*", "channel/*"), Role.FORGET: ("forget.json",)}

DELEGATED = (Role.BUNDLES, Role.FORGET)
"""The roles that ``targets`` delegates to; their keys sign bundles and forget lists, too."""
