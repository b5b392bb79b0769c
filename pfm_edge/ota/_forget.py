"""Forgetting over the air: the registry, the forget list and every live bundle, in one change.

Owns what `pfm-edge ota forget` does::

    forget(repository, [class_id], order=OrderRequest(reason="request"))

What a class leaves in the repository is its id: in the registry, and in a row of the forget list.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pfm_edge.ota._draft import Draft
from pfm_edge.ota._issue import releases_of
from pfm_edge.ota._keys import Signers
from pfm_edge.ota._repository import Outcome, PublisherRepository, Work
from pfm_edge.registry import Registry, read_registry
from pfm_edge_runtime.bundle import ClassId, is_class_id
from pfm_edge_runtime.errors import ConfigError, UnknownClassError
from pfm_edge_runtime.ota.channel import Channel
from pfm_edge_runtime.ota.forget_list import REASONS, ForgetRow

__all__ = ["OrderRequest", "forget"]

_UNKNOWN = "no class of the registry: an id of another registry needs --unknown"


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """Why classes are forgotten.

    Attributes:
        order_id: The order's own number or random id; drawn where none is given.
        reason: A code, one of ``REASONS``.
    """

    order_id: str = ""
    reason: str = "request"

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ConfigError(f"a reason is one of {', '.join(REASONS)}")


def forget(
    repository: PublisherRepository,
    names: Sequence[str],
    *,
    order: OrderRequest | None = None,
    unknown: bool = False,
    signers: Signers | None = None,
) -> Outcome:
    """Order the devices to forget classes, and let go of them here, in one step.

    Args:
        repository: Where.
        names: Class ids, or labels that the registry knows.
        order: The order; a random id and ``"request"`` by default.
        unknown: Whether ids that the registry does not know are taken, too.
        signers: The keys at hand; the remembered ones by default.

    Returns:
        What became of it. Where every class was ordered before, nothing changes.

    Raises:
        UnknownClassError: A name is that of no class; the message does not repeat it.
        RepositoryError: Another change waits for signatures.

    A bundle whose file is lost keeps no order back: it is not offered any more, and a note says so.
    """
    order = order or OrderRequest()
    with repository.work(signers) as work:
        class_ids = _found(work, names, unknown=unknown)
        listed = {each.class_id for each in work.current.forget_list.rows}
        new = [each for each in class_ids if each not in listed]
        if not new:
            return Outcome(True, ("every one of these classes is on the forget list already",))
        draft = Draft(work, "forget")
        draft.put_forget_list(draft.next_forget_list(_rows(new, order, draft.now)))
        for channel in work.current.channels.values():
            _let_go(draft, channel, frozenset(class_ids))
        return draft.settle()


def _let_go(draft: Draft, channel: Channel, class_ids: frozenset[ClassId]) -> None:
    """Issue a channel's bundles again where one has a class, or cannot be asked for it."""
    found = [draft.work.current.bundle_if_there(each) for each in releases_of(channel)]
    if any(bundle is None or class_ids.intersection(bundle.class_ids) for bundle in found):
        draft.reissue(channel, without=class_ids)


def _rows(new: Sequence[ClassId], order: OrderRequest, now: str) -> list[ForgetRow]:
    order_id = order.order_id or secrets.token_hex(8)
    return [ForgetRow(each, order_id, order.reason, now) for each in new]


def _found(work: Work, names: Sequence[str], *, unknown: bool) -> list[ClassId]:
    registry: Registry = read_registry(work.settings.registry)
    found: dict[ClassId, None] = {}
    for number, name in enumerate(names, start=1):
        matches = registry.find(name)
        if not matches and unknown and is_class_id(name):
            matches = {ClassId(name)}
        if len(matches) != 1:
            raise UnknownClassError(
                f"name {number} of {len(names)} is that of "
                + ("two classes: give the class's own id" if matches else _UNKNOWN)
            )
        found[matches.pop()] = None
    return [*found]
