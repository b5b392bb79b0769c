"""The state of a repository: roles, keys, expiries, models, and what waits.

Owns what `pfm-edge ota status` says without receipts::

    state = repository_state(repository)
    state.roles[0].expires, state.models[0].stable
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pfm_edge.ota._current import Current
from pfm_edge.ota._description import whom
from pfm_edge.ota._issue import releases_of
from pfm_edge.ota._journal import is_change, load
from pfm_edge.ota._mark import Mark, mark_path, read_mark
from pfm_edge.ota._repository import PublisherRepository
from pfm_edge.ota._roles import Role
from pfm_edge.ota._served import differing, lost_files, strangers, stray_files
from pfm_edge.ota._settings import Settings
from pfm_edge.ota._standing import older_copy, wrong_clock
from pfm_edge.registry import Registry, read_registry
from pfm_edge_runtime.ota.channel import Channel, Release

__all__ = ["ModelState", "RepositoryState", "RoleState", "repository_state"]

_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class RoleState:
    """A role as it is in force.

    Attributes:
        role: The role.
        version: The version of its metadata.
        expires: Until when that holds, UTC.
        expired: Whether that is over.
        threshold: How many keys must sign.
        keys: Where each key is remembered to be, by key id; empty where somebody else has it.
    """

    role: str
    version: int
    expires: str
    expired: bool
    threshold: int
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model's channel.

    Attributes:
        model_id: The model.
        stable: The place of the bundle that is for all devices, as ``"1-7"``; empty for none.
        candidate: That of the one that is rolled out; empty for none.
        rollout: Whom that is for, in words.
    """

    model_id: str
    stable: str
    candidate: str
    rollout: str


@dataclass(frozen=True, slots=True)
class RepositoryState:
    """What is in force, and what waits.

    Attributes:
        roles: The roles; none before the first change is complete.
        models: The models.
        pending: What kind of change waits for signatures; empty for none.
        overdue: Classes of live bundles that the registry has forgotten, and no order names.
        problems: What keeps the repository from going on, or devices from getting what is in
            force; one line each, with what to do.
    """

    roles: tuple[RoleState, ...]
    models: tuple[ModelState, ...]
    pending: str
    overdue: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "roles": [asdict(each) for each in self.roles],
            "models": [asdict(each) for each in self.models],
            "pending": self.pending or None,
            "overdue": [*self.overdue],
            "problems": [*self.problems],
        }


def repository_state(repository: PublisherRepository) -> RepositoryState:
    """Say what is in force.

    Raises:
        RepositoryError: It is none, or is damaged.
    """
    layout = repository.layout
    with repository.held() as settings:
        current = Current.read(layout)
        pending = load(layout.pending).change.kind if is_change(layout.pending) else ""
        roles = [_role(each, current, settings.signers, repository) for each in current.metadata]
        channels = [each for _, each in sorted(current.channels.items())]
        overdue = _overdue(channels, current, read_registry(settings.registry))
        problems = tuple(_problems(repository, settings, current))
    return RepositoryState(tuple(roles), tuple(map(_model, channels)), pending, overdue, problems)


def _problems(
    repository: PublisherRepository, settings: Settings, current: Current
) -> Iterator[str]:
    if not current.metadata:
        return
    mark = read_mark(mark_path(repository.layout, settings.registry)) or Mark()
    older = older_copy(current, mark)
    clock = wrong_clock(current, mark, repository.clock(), settings.days)
    yield from (each for each in (older, clock) if each)
    if older:
        return  # what is served is newer than what it would be compared with
    for path in differing(current):
        yield f"{path} is missing or altered: pfm-edge ota refresh puts it back"
    yield from lost_files(current)
    for path in strangers(current):
        yield f"{path} is no part of what is in force: the next change or refresh removes it"
    yield from stray_files(current)


def _overdue(channels: list[Channel], current: Current, registry: Registry) -> tuple[str, ...]:
    bundles = [current.bundle_if_there(each) for one in channels for each in releases_of(one)]
    live = {each for bundle in bundles if bundle is not None for each in bundle.class_ids}
    return tuple(sorted(live.intersection(registry.forgotten)))


def _role(
    role: Role, current: Current, sources: Mapping[str, str], repository: PublisherRepository
) -> RoleState:
    threshold, keys = current.authority.keys(role)
    expires = current.expires(role)
    return RoleState(
        role=role.value,
        version=current.metadata[role].signed.version,
        expires=expires.strftime(_TIME),
        expired=expires <= repository.clock(),
        threshold=threshold,
        keys={each: sources.get(each, "") for each in keys},
    )


def _model(channel: Channel) -> ModelState:
    candidate = channel.candidate
    return ModelState(
        model_id=channel.model_id,
        stable=_place(channel.stable),
        candidate=_place(candidate),
        rollout="" if candidate is None else whom(candidate),
    )


def _place(release: Release | None) -> str:
    return "" if release is None else f"{release.epoch}-{release.sequence}"
