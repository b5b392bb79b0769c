"""A change: what shall be in force next, and the signatures that it has so far.

Owns how a change gets from drafted to complete. There are three stages, because each signs the
bytes of the one before: bundles and forget lists; root, targets and delegations; snapshot and
timestamp, which are made when all the rest is there::

    change = Change("publish", {Role.BUNDLES: unsigned}, {"bundles/…": data})
    change, missing = advance(change, current, signers, now)
    missing                                  # () when it may be committed
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from tuf.api.metadata import Metadata, Snapshot, Timestamp

from pfm_edge.ota._current import Current
from pfm_edge.ota._keys import Signers
from pfm_edge.ota._metadata import (
    AnyMetadata,
    Authority,
    Missing,
    meta_file,
    missing_signatures,
    next_version,
    sign_metadata,
    target_file,
)
from pfm_edge.ota._roles import DELEGATED, Role
from pfm_edge.ota._sealing import sealed
from pfm_edge_runtime.errors import UpdateError

__all__ = ["RESTORED", "Change", "advance", "authority_of", "name_targets", "signed_at"]

RESTORED = "restored"
"""The kind of the change by which an older copy of a repository goes on."""

_BASE = (Role.ROOT, Role.TARGETS, *DELEGATED)
_JSON = ".json"


@dataclass(frozen=True, slots=True)
class Change:
    """What shall be in force next.

    Attributes:
        kind: What a person asked for, as ``"forget"``.
        metadata: New versions by role; some of their signatures may be missing.
        targets: New targets by path; some of their signatures may be missing.
    """

    kind: str
    metadata: Mapping[Role, AnyMetadata]
    targets: Mapping[str, bytes] = field(default_factory=dict)


def authority_of(change: Change, current: Current) -> Authority:
    """Return who may sign a change: the keys that it leads to."""
    metadata = {**current.metadata, **change.metadata}
    return Authority(metadata[Role.ROOT], metadata[Role.TARGETS], current.metadata.get(Role.ROOT))


def advance(
    change: Change,
    current: Current,
    signers: Signers,
    now: datetime,
    days: Mapping[Role, int],
) -> tuple[Change, tuple[Missing, ...]]:
    """Take a change as far as the keys at hand can.

    Args:
        change: As it is.
        current: What is in force.
        signers: The keys at hand.
        now: The time.
        days: For how many days a snapshot and a timestamp hold.

    Returns:
        The change with more signatures, and the ones that it lacks still.

    Raises:
        UpdateError: Something else was published since it was made.
        KeyFileError: A key that was named refuses to sign.
    """
    _require_base(change, current)
    authority = authority_of(change, current)
    change, missing = _with_envelopes(change, authority, signers)
    unfinished = {each.role for each in missing}
    for role in (each for each in _BASE if each in change.metadata and each not in unfinished):
        metadata = change.metadata[role]
        if not metadata.signatures:
            name_targets(role, metadata, change.targets)
        sign_metadata(role, metadata, authority, signers)
        missing += missing_signatures(role, metadata, authority)
    for role, make in ((Role.SNAPSHOT, _snapshot), (Role.TIMESTAMP, _timestamp)):
        if missing:
            break
        if role is Role.SNAPSHOT and not _needs_snapshot(change, current, authority):
            continue
        made = make(change, current, now + timedelta(days=days[role]))
        metadata = _kept(change.metadata.get(role), made)
        change = replace(change, metadata={**change.metadata, role: metadata})
        sign_metadata(role, metadata, authority, signers)
        missing += missing_signatures(role, metadata, authority)
    return change, missing


def signed_at(change: Change, before: Change, days: Mapping[Role, int]) -> datetime | None:
    """Return when the timestamp of a change was signed, if that is what took it this far."""
    made = change.metadata.get(Role.TIMESTAMP)
    if made is None or not made.signatures or made is before.metadata.get(Role.TIMESTAMP):
        return None
    expires: datetime = made.signed.expires
    return expires - timedelta(days=days[Role.TIMESTAMP])


def _require_base(change: Change, current: Current) -> None:
    for role in (each for each in _BASE if each in change.metadata):
        before = current.metadata[role].signed.version if current.metadata else 0
        if change.metadata[role].signed.version != before + 1:
            raise UpdateError(
                f"the change was made for version {change.metadata[role].signed.version - 1} of "
                f"{role}, and version {before} is in force: abandon it, and make it again"
            )


def _with_envelopes(
    change: Change, authority: Authority, signers: Signers
) -> tuple[Change, tuple[Missing, ...]]:
    """Sign bundles and forget lists, as long as the metadata that names their hashes is open."""
    missing: tuple[Missing, ...] = ()
    targets = dict(change.targets)
    for path in change.targets:
        for role in DELEGATED:
            closed = bool(change.metadata[role].signatures) if role in change.metadata else True
            if closed:
                continue
            targets[path], lacking = sealed(role, path, targets[path], authority, signers)
            missing += lacking
    return replace(change, targets=targets), missing


def name_targets(role: Role, metadata: AnyMetadata, targets: Mapping[str, bytes]) -> None:
    """Write length and hash of the targets into metadata that nobody signed yet."""
    for path in metadata.signed.targets if role in DELEGATED else ():
        if path in targets:
            metadata.signed.targets[path] = target_file(path, targets[path])


def _needs_snapshot(change: Change, current: Current, authority: Authority) -> bool:
    """Tell whether the snapshot in force would be wrong: each one costs every device a request."""
    if change.metadata.keys() & {Role.SNAPSHOT, Role.TARGETS, *DELEGATED} or not current.metadata:
        return True
    return bool(missing_signatures(Role.SNAPSHOT, current.metadata[Role.SNAPSHOT], authority))


def _snapshot(change: Change, current: Current, expires: datetime) -> AnyMetadata:
    metadata = {**current.metadata, **change.metadata}
    made = _successor(current, Role.SNAPSHOT, Snapshot, expires)
    made.signed.meta = {
        role.value + _JSON: meta_file(metadata[role]) for role in (Role.TARGETS, *DELEGATED)
    }
    return made


def _timestamp(change: Change, current: Current, expires: datetime) -> AnyMetadata:
    made = _successor(current, Role.TIMESTAMP, Timestamp, expires)
    made.signed.snapshot_meta = meta_file({**current.metadata, **change.metadata}[Role.SNAPSHOT])
    return made


def _successor(current: Current, role: Role, kind: Any, expires: datetime) -> AnyMetadata:
    if role in current.metadata:
        return next_version(current.metadata[role], expires)
    return Metadata(kind(1, None, expires))


def _kept(pending: AnyMetadata | None, made: AnyMetadata) -> AnyMetadata:
    """Keep what somebody signed already, if it still says the same but for its expiry."""
    if pending is None:
        return made
    same = pending.signed.to_dict() | {"expires": None} == made.signed.to_dict() | {"expires": None}
    return pending if same else made
