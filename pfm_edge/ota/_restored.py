"""Going on with a repository that was restored from an older copy.

Owns what `pfm-edge ota refresh --restored` does::

    restore(repository)
    restore(repository, above=7)     # the registry was restored along with it

One change signs everything above whatever was signed before, so that no version number and no
place is given twice: devices that saw what is lost take what comes now. The forget list gets the
orders again that this copy never had: the registry, which is no part of the copy, has the classes.
Where that was restored, too, only devices and mirrors know how far all had come: the mark is raised
to what they saw before anything else, so that whatever interrupts this, it goes on from there.
"""

import secrets
from dataclasses import replace

from pfm_edge.ota._change import RESTORED
from pfm_edge.ota._current import Current
from pfm_edge.ota._draft import Draft
from pfm_edge.ota._files import put
from pfm_edge.ota._journal import discard
from pfm_edge.ota._keys import Signers
from pfm_edge.ota._mark import Mark, delegations_of, mark_path, raise_mark
from pfm_edge.ota._metadata import AnyMetadata, reached_version
from pfm_edge.ota._repository import Outcome, PublisherRepository, Work
from pfm_edge.ota._roles import DELEGATED, Role
from pfm_edge.ota._roots import newer_roots
from pfm_edge.ota._served import mend
from pfm_edge.ota._standing import newer_served, older_copy, wrong_clock
from pfm_edge.registry import read_registry
from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.ota.forget_list import ForgetRow

__all__ = ["restore"]

_MAX_ABOVE = 2**31
_NOTHING_SHOWS = (
    "nothing here shows that it is an older copy; where devices say that they have seen a newer "
    "one: pfm-edge ota refresh REPO --restored --above N"
)
_ORDERS = (
    "orders to forget that were given since this copy was made are not known here: give them again "
    "with pfm-edge ota forget"
)
_REASON = "other"


def restore(
    repository: PublisherRepository, *, above: int | None = None, signers: Signers | None = None
) -> Outcome:
    """Go on with an older copy of a repository, above all that was signed before.

    Args:
        repository: The copy.
        above: The highest version of a timestamp that a device or a mirror has seen, where the
            registry was restored along with the repository, and nothing here shows it.
        signers: The keys at hand; the remembered ones by default.

    Raises:
        RepositoryError: It is no older copy, it lacks a root that was signed since, or another
            change waits for signatures.
        StorageError: The disk refused.
    """
    _keep_newer_roots(repository)
    with repository.work(signers, sound=False) as found:
        work = found
        if clock := wrong_clock(work.current, work.mark, work.now, work.settings.days):
            raise RepositoryError(f"{repository.directory}: {clock}")
        if above is not None:
            work = replace(work, mark=_raised_mark(work, above))
        elif not older_copy(work.current, work.mark):
            raise RepositoryError(f"{repository.directory}: {_NOTHING_SHOWS}")
        if repository.layout.committing.exists():
            discard(repository.layout.committing)  # it came with the copy, and is behind it all
        draft = _everything(replace(work, current=_raised(work)))
        if above is not None:
            draft.notes.append(_ORDERS)
        outcome = draft.settle()
        if outcome.committed:
            mended = mend(Current.read(repository.layout))
            outcome = replace(outcome, notes=(*outcome.notes, *mended))
        return outcome


def _raised_mark(work: Work, above: int) -> Mark:
    """Raise the mark to what devices or mirrors saw, durably, and return it."""
    least = max(
        work.current.metadata[Role.TIMESTAMP].signed.version, work.mark.versions[Role.TIMESTAMP]
    )
    if not least <= above <= _MAX_ABOVE:
        raise RepositoryError(
            f"{work.repository.directory}: timestamp is version {least} here: what devices have "
            f"seen is at least {least}, and at most {_MAX_ABOVE}"
        )
    known = {**work.current.metadata, **newer_served(work.current)}
    mark = work.mark.above(above, known)
    raise_mark(mark_path(work.current.layout, work.settings.registry), mark)
    return mark


def _everything(work: Work) -> Draft:
    """Return the change that issues all that there is, once more."""
    draft = Draft(work, RESTORED)
    for role in (Role.TARGETS, *DELEGATED):
        draft.renew(role)
    rows = _orders_again(draft)
    draft.put_forget_list(draft.next_forget_list(rows))
    channels = work.current.channels
    for channel in channels.values():
        draft.reissue(channel)
    draft.notes.extend(f"class {each.class_id} is ordered again: {each.order_id}" for each in rows)
    draft.notes.extend(
        f"model {model} was published since this copy was made: publish its bundle again"
        for model in sorted(work.mark.places.keys() - channels.keys())
    )
    return draft


def _keep_newer_roots(repository: PublisherRepository) -> None:
    """Take over the roots that are served and that this copy lacks: their signatures say enough."""
    layout = repository.layout
    with repository.held():
        current = Current.read(layout)
        for root in newer_roots(layout, current.metadata[Role.ROOT]) if current.metadata else ():
            put(layout, layout.kept_root(root.signed.version), root.to_bytes())
            put(layout, layout.metadata(Role.ROOT), root.to_bytes())


def _raised(work: Work) -> Current:
    """Return what is in force as if it had the highest versions that were signed.

    Raises:
        RepositoryError: What says which keys count was signed since, and is not here.
    """
    served = newer_served(work.current)
    metadata: dict[Role, AnyMetadata] = {**work.current.metadata, **served}
    lacking = range(metadata[Role.ROOT].signed.version + 1, work.mark.versions[Role.ROOT] + 1)
    if lacking:
        raise _lacking(work, Role.ROOT, [*lacking])
    if work.mark.delegations not in {"", delegations_of(metadata)}:
        raise _lacking(work, Role.TARGETS, [work.mark.versions[Role.TARGETS]])
    raised = {
        role: each if role is Role.ROOT else reached_version(each, work.mark.versions[role])
        for role, each in metadata.items()
    }
    return Current(work.current.layout, raised)


def _lacking(work: Work, role: Role, versions: list[int]) -> RepositoryError:
    names = ", ".join(f"{each}.{role}.json" for each in versions)
    return RepositoryError(
        f"{work.repository.directory}: keys were changed since this copy was made: copy {names} "
        f"from a mirror into {work.current.layout.public_metadata(role, 1).parent}, and run this "
        "again; signatures say whether it is the right one"
    )


def _orders_again(draft: Draft) -> list[ForgetRow]:
    """Return rows for the classes that the registry has forgotten and this copy's list lacks."""
    listed = {each.class_id for each in draft.work.current.forget_list.rows}
    forgotten = read_registry(draft.work.settings.registry).forgotten
    order_id = secrets.token_hex(8)
    return [
        ForgetRow(each, order_id, _REASON, draft.now) for each in forgotten if each not in listed
    ]
