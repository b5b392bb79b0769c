"""Rotating keys: of any role, with what must be signed anew because of it.

Owns what `pfm-edge ota rotate-key` does::

    rotate_key(repository, Role.TIMESTAMP, KeyChange(add=(new,), remove=(old_id,)))

What follows from a rotation is part of the same change: metadata of the role; bundles that too few
of the new keys have signed, and the forget list; and after a new root, which raises the epoch,
every live bundle, so that a place that somebody took with a stolen bundle key is behind all of
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pfm_edge.ota._draft import Draft
from pfm_edge.ota._init import require_apart, require_keys
from pfm_edge.ota._issue import releases_of
from pfm_edge.ota._keys import RoleKey, Signers
from pfm_edge.ota._metadata import Authority, change_keys
from pfm_edge.ota._repository import Outcome, PublisherRepository, Work
from pfm_edge.ota._roles import DELEGATED, Role
from pfm_edge.ota._sealing import signed_by_enough
from pfm_edge.ota._standing import list_is_ahead
from pfm_edge_runtime.errors import ConfigError

__all__ = ["KeyChange", "find_key", "rotate_key"]

_LEAST_PREFIX = 6


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What shall be true of a role's keys.

    Attributes:
        add: Keys that it gets.
        remove: Ids of keys that it loses, or how they begin.
        threshold: How many must sign; as before where none is given.
        new_epoch: Whether the epoch is raised, and every live bundle issued again.
    """

    add: tuple[RoleKey, ...] = ()
    remove: tuple[str, ...] = ()
    threshold: int | None = None
    new_epoch: bool = False


def rotate_key(
    repository: PublisherRepository,
    role: Role,
    keys: KeyChange,
    *,
    signers: Signers | None = None,
) -> Outcome:
    """Change the keys of a role.

    Args:
        repository: Where.
        role: Whose keys.
        keys: How they change.
        signers: The keys at hand; the remembered ones and the added ones by default.

    Raises:
        ConfigError: The keys would make no sense, or nothing would change.
        RepositoryError: Another change waits for signatures.

    A bundle whose file is lost keeps no keys back: what is issued again goes without it.
    """
    sources = {each.key_id: each.source for each in keys.add if each.source is not None}
    if sources:
        with repository.held() as settings:
            settings.with_signers(sources).write(repository.layout.settings)
    signers = signers or repository.signers(keys.add)
    mends_clock = role is Role.TIMESTAMP and bool(keys.add)
    with repository.work(signers, any_clock=mends_clock) as work:
        draft = Draft(work, "rotate-key")
        _change_keys(draft, role, keys)
        if role is Role.ROOT or keys.new_epoch:
            draft.renew(Role.ROOT)
        if role not in {Role.ROOT, Role.SNAPSHOT, Role.TIMESTAMP}:
            draft.renew(role)
        _require_apart_after(draft)
        if role is Role.FORGET or (mends_clock and list_is_ahead(work.current, work.now)):
            draft.put_forget_list(draft.next_forget_list())
        _issue_again(draft, everything=role is Role.ROOT or keys.new_epoch)
        return draft.settle()


def find_key(name: str, key_ids: Sequence[str], none: str = "no key of the role begins") -> str:
    """Find a key by its id, or by how that begins; ``none`` says what there is not.

    Raises:
        ConfigError: None of them, or several, begin like that.
    """
    found = [each for each in key_ids if each.startswith(name.removesuffix("…"))]
    if len(name) < _LEAST_PREFIX or len(found) != 1:
        what = "several keys begin" if len(found) > 1 else none
        raise ConfigError(f"{what} with {name}: give its id, or {_LEAST_PREFIX} digits of it")
    return found[0]


def _change_keys(draft: Draft, role: Role, keys: KeyChange) -> None:
    current = draft.work.current
    threshold, now = current.authority.keys(role)
    remove = [find_key(each, [*now]) for each in keys.remove]
    if not (keys.add or remove or keys.new_epoch or keys.threshold not in {None, threshold}):
        raise ConfigError(f"{role}: say what changes: --add, --remove, --threshold or --new-epoch")
    for each in keys.add:
        if each.key_id in now:
            raise ConfigError(f"{role}: it has key {each.key_id[:16]}… already")
    threshold = threshold if keys.threshold is None else keys.threshold
    after = {each: key for each, key in now.items() if each not in remove}
    added = [each.public for each in keys.add]
    require_keys(role, [*after.values(), *added], threshold)
    delegator = draft.renew(Role.TARGETS if role in DELEGATED else Role.ROOT)
    change_keys(delegator, role, added, remove, threshold)


def _require_apart_after(draft: Draft) -> None:
    authority = _authority(draft.work, draft)
    require_apart({role: authority.keys(role)[1] for role in Role})


def _issue_again(draft: Draft, *, everything: bool) -> None:
    """Issue what a device would not take any more, or everything in a new epoch."""
    authority = _authority(draft.work, draft)
    for channel in draft.work.current.channels.values():
        bundles = [draft.work.current.bundle_if_there(each) for each in releases_of(channel)]
        if everything or not all(signed_by_enough(each, authority) for each in bundles if each):
            draft.reissue(channel)


def _authority(work: Work, draft: Draft) -> Authority:
    return work.authority(draft.change())
