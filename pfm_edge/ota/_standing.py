"""Whether a repository may go on from where it stands: it is no older copy, and the clock is right.

Owns the reasons to refuse, each one line with its way out::

    older_copy(current, mark)               # "" where it stands as high as it ever did
    wrong_clock(current, mark, now, days)   # "" where devices take what is signed now

An older copy is known by its high-water mark, and by newer metadata that is served. What is served
counts only where it is truly signed: junk there must stop nobody.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge.ota._change import RESTORED
from pfm_edge.ota._current import Current
from pfm_edge.ota._journal import is_change, load
from pfm_edge.ota._mark import Mark
from pfm_edge.ota._metadata import (
    AnyMetadata,
    Authority,
    MetadataByRole,
    missing_signatures,
    parse_metadata,
)
from pfm_edge.ota._roles import Role
from pfm_edge.ota._roots import newer_roots
from pfm_edge_runtime.errors import RepositoryError

__all__ = ["late_clock", "list_is_ahead", "newer_served", "older_copy", "wrong_clock"]

_AHEAD = timedelta(minutes=5)
_MAX_METADATA = 1 << 26
_SHOWN = "%Y-%m-%d %H:%M UTC"
_VERSIONED = re.compile(r"([1-9][0-9]{0,15})\.([a-z]+)\.json")
_WAYS = (
    "it was restored from an older copy: put a newer one back, or go on from here with "
    "pfm-edge ota refresh REPO --restored"
)


def older_copy(current: Current, mark: Mark) -> str:
    """Say what is older here than it was; empty where nothing is."""
    served = newer_served(current)
    for role, metadata in current.metadata.items():
        here, there = metadata.signed.version, mark.versions.get(role, 0)
        what = "was signed already"
        if here >= there and role in served:
            there, what = served[role].signed.version, "is served"
        if here < there:
            ways = _ways(current, served)
            return f"{role} is version {here} here, and version {there} {what}: {ways}"
    return ""


def _ways(current: Current, served: MetadataByRole) -> str:
    """Say what to do about an older copy: go on, or sign the change that does."""
    pending = current.layout.pending
    if not is_change(pending) or load(pending).change.kind != RESTORED:
        return _WAYS
    expires = served.get(Role.TIMESTAMP, current.metadata[Role.TIMESTAMP]).signed.expires
    return (
        "the change that goes on from an older copy waits to be signed: pfm-edge ota sign REPO; "
        f"the timestamp in force holds until {expires:{_SHOWN}}"
    )


def newer_served(current: Current) -> MetadataByRole:
    """Return the metadata that is served, newer than what is in force, and signed as it must be."""
    own = current.metadata
    roots = newer_roots(current.layout, own[Role.ROOT])
    found: dict[Role, AnyMetadata] = {Role.ROOT: roots[-1]} if roots else {}
    served = _served(current)
    for role in (each for each in Role if each is not Role.ROOT):
        authority = Authority(
            found.get(Role.ROOT, own[Role.ROOT]), found.get(Role.TARGETS, own[Role.TARGETS])
        )
        for version, path in sorted(served.get(role, ()), reverse=True):
            if version and version <= own[role].signed.version:
                break
            metadata = _read(role, path, authority)
            if metadata is not None and metadata.signed.version > own[role].signed.version:
                found[role] = metadata
                break
    return found


def wrong_clock(current: Current, mark: Mark, now: datetime, days: Mapping[Role, int]) -> str:
    """Say that something in force was signed so much later than now that nothing signed now counts.

    Devices that have it know that its time has passed: to them, what is signed now has expired.

    Args:
        current: What is in force.
        mark: When that was signed, if it is known.
        now: The time.
        days: For how many days metadata of a role holds.
    """
    signed, what = _latest(current, mark, days)
    works = signed - timedelta(days=days[Role.TIMESTAMP])
    if works < now:
        return ""
    return (
        f"the {what} in force was signed at {signed:{_SHOWN}}, and here it is {now:{_SHOWN}}: set "
        "the clock; if it is right now and was ahead then, pfm-edge ota rotate-key REPO timestamp "
        f"--add NEW --remove OLD, or wait until {works + timedelta(minutes=1):{_SHOWN}}"
    )


def late_clock(
    current: Current, mark: Mark, now: datetime, days: Mapping[Role, int]
) -> tuple[str, ...]:
    """Say, in a line or none, that something in force was signed later than now; as `wrong_clock`.

    It is so little that devices take what is signed now.
    """
    signed, what = _latest(current, mark, days)
    if not now + _AHEAD < signed < now + timedelta(days=days[Role.TIMESTAMP]):
        return ()
    return (
        f"the {what} before was signed at {signed:{_SHOWN}}, and here it is {now:{_SHOWN}}: see "
        "that the clock is right",
    )


def _latest(current: Current, mark: Mark, days: Mapping[Role, int]) -> tuple[datetime, str]:
    """Return when the timestamp or the forget list in force was signed, and which was later."""
    version, signed = mark.signed
    if signed is None or version < current.metadata[Role.TIMESTAMP].signed.version:
        # Where its key is elsewhere, it may have been given the usual days there.
        holds = timedelta(days=max(days[Role.TIMESTAMP], Role.TIMESTAMP.days))
        signed = current.expires(Role.TIMESTAMP) - holds
    found = [(signed, "timestamp")]
    with suppress(RepositoryError):  # it is lost, which others say
        found.append((_issued_at(current), "forget list"))
    return max(found, key=lambda each: each[0])


def list_is_ahead(current: Current, now: datetime) -> bool:
    """Tell whether the forget list in force was issued later than now."""
    try:
        return _issued_at(current) > now + _AHEAD
    except RepositoryError:  # it is lost, which others say
        return False


def _issued_at(current: Current) -> datetime:
    return datetime.fromisoformat(current.forget_list.issued_at).astimezone(UTC)


def _served(current: Current) -> dict[Role, list[tuple[int, Path]]]:
    """List the files of each role that are served, by version; the timestamp's says none."""
    timestamp = current.layout.public_metadata(Role.TIMESTAMP, 0)
    found: dict[Role, list[tuple[int, Path]]] = {Role.TIMESTAMP: [(0, timestamp)]}
    for path in timestamp.parent.iterdir() if timestamp.parent.is_dir() else ():
        match = _VERSIONED.fullmatch(path.name)
        if match is not None and match[2] in [*Role]:
            found.setdefault(Role(match[2]), []).append((int(match[1]), path))
    return found


def _read(role: Role, path: Path, authority: Authority) -> AnyMetadata | None:
    """Read metadata that enough of the role's keys have signed."""
    try:
        data = read_whole(path, most=_MAX_METADATA, error=RepositoryError)
        found = parse_metadata(role, data, str(path))
        return None if missing_signatures(role, found, authority) else found
    except RepositoryError:
        return None
