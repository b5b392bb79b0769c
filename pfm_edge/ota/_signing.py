"""Signing a change that waits: here, or on another machine and back.

Owns what `pfm-edge ota sign` and `ota abandon` do::

    sign(repository, signers)                          # what waits in REPO/pending
    sign_copy(Path("stick/pending"), signers)          # a copy of that folder, elsewhere
    sign(repository, signers, copy=Path("stick/pending"))

A copy that comes back adds signatures, and nothing else: what it says must be what waits here.
"""

from dataclasses import replace
from pathlib import Path

from pfm_edge.ota._change import RESTORED, Change, advance, name_targets
from pfm_edge.ota._current import Current
from pfm_edge.ota._description import all_keys, describe
from pfm_edge.ota._journal import discard, is_change, load, update
from pfm_edge.ota._keys import Signers
from pfm_edge.ota._layout import Layout
from pfm_edge.ota._metadata import AnyMetadata, Authority, valid_signatures
from pfm_edge.ota._repository import Outcome, PublisherRepository, Work, utc_now
from pfm_edge.ota._roles import Role
from pfm_edge.ota._sealing import joined
from pfm_edge.ota._standing import older_copy, wrong_clock
from pfm_edge_runtime.errors import RepositoryError

__all__ = ["abandon", "sign", "sign_copy"]


def sign(
    repository: PublisherRepository, signers: Signers | None = None, *, copy: Path | None = None
) -> Outcome:
    """Sign the change that waits, and publish it if that is enough.

    Args:
        repository: Where it waits.
        signers: The keys at hand; the remembered ones by default.
        copy: A copy of `pending/` that was signed elsewhere; its signatures are taken over.

    Raises:
        RepositoryError: No change waits, more was signed since, or the copy is of another one.
        KeyFileError: A key that was named refuses to sign.
    """
    layout = repository.layout
    with repository.work(signers, pending=True, sound=False) as found:
        work = found
        if not layout.pending.exists():
            raise RepositoryError(f"{layout.directory}: no change waits for signatures")
        stored = load(layout.pending)
        change = stored.change
        if change.kind == RESTORED:  # made of versions that this copy never had
            work = replace(found, current=Current(layout, stored.base))
            _require_newest(work)
        else:
            work.require_sound(any_clock=_replaces_timestamp_key(change, work.current))
        if copy is not None:
            change = _taken_over(change, load(copy).change, work.authority(change))
        return work.settle_pending(change)


def sign_copy(folder: Path, signers: Signers) -> Outcome:
    """Sign a copy of a `pending/` folder; it goes back to its repository then.

    Raises:
        RepositoryError: It is no such copy.
        KeyFileError: A key that was named refuses to sign.
    """
    stored = load(folder)
    current = Current(Layout(folder), stored.base)
    days = {role: role.days for role in Role}
    change, missing = advance(stored.change, current, signers, utc_now(), days)
    update(folder, change)
    notes = (*all_keys(change), *describe(change, stored.base))
    return Outcome(False, notes, (*change.metadata,), missing, dict(signers.reasons))


def abandon(repository: PublisherRepository) -> bool:
    """Drop the change that waits, and erase what it holds.

    Returns:
        Whether there was one.

    Raises:
        StorageError: The disk refused; the next command goes on.
    """
    with repository.held():
        if not is_change(repository.layout.pending):
            return False
        discard(repository.layout.pending)
        return True


def _require_newest(work: Work) -> None:
    """Require that nothing was signed since a restored change was made, by any copy."""
    reason = wrong_clock(work.current, work.mark, work.now, work.settings.days)
    if older_copy(work.current, work.mark):
        reason = (
            "more was signed since this change was made: pfm-edge ota abandon REPO, then "
            "pfm-edge ota refresh REPO --restored"
        )
    if reason:
        raise RepositoryError(f"{work.repository.directory}: {reason}")


def _replaces_timestamp_key(change: Change, current: Current) -> bool:
    """Tell whether a change ends what a wrong clock did: a new key takes the old one's place."""
    if Role.ROOT not in change.metadata or Role.ROOT not in current.metadata:
        return False
    before, after = (
        set(each[Role.ROOT].signed.get_delegated_role(Role.TIMESTAMP.value).keyids)
        for each in (current.metadata, change.metadata)
    )
    return not after <= before


def _taken_over(change: Change, copy: Change, authority: Authority) -> Change:
    """Return the change with the signatures of a copy."""
    if (
        change.metadata.keys() - copy.metadata.keys()
        or change.targets.keys() != copy.targets.keys()
    ):
        raise _another()
    targets = {
        path: data if _closed(path, change) else joined(path, data, copy.targets[path])
        for path, data in change.targets.items()
    }
    for role, metadata in change.metadata.items():
        if not metadata.signatures:
            name_targets(role, metadata, targets)
        _add_signatures(role, metadata, copy.metadata[role], authority)
    last = (Role.SNAPSHOT, Role.TIMESTAMP)  # made here, or where their keys are
    added = {each: copy.metadata[each] for each in last if each in copy.metadata}
    return Change(change.kind, {**added, **change.metadata}, targets)


def _closed(path: str, change: Change) -> bool:
    """Tell whether somebody signed the metadata that names the hash of a target."""
    return any(
        each.signatures and path in getattr(each.signed, "targets", {})
        for each in change.metadata.values()
    )


def _add_signatures(
    role: Role, mine: AnyMetadata, theirs: AnyMetadata, authority: Authority
) -> None:
    """Take over the signatures that verify; one that does not must not keep a good one out."""
    if mine.signed_bytes == theirs.signed_bytes:
        good = valid_signatures(role, mine, authority) | valid_signatures(role, theirs, authority)
        mine.signatures = good
    elif theirs.signatures and not role.online:
        raise _another()


def _another() -> RepositoryError:
    return RepositoryError("the copy is of another change than the one that waits here")
