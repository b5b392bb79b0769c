"""Making a repository: its keys, their roles, an empty forget list.

Owns what `pfm-edge ota init` does::

    keys = {role: [read_key(f"keys/{role}.pem")] for role in Role}
    init_repository(Path("REPO"), InitRequest(Path("classes.json"), keys))

The first change is one like any other: where private keys are missing it waits for signatures.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from securesystemslib.signer import Key

from pfm_edge._key_files import write_key_pair
from pfm_edge.ota._change import Change
from pfm_edge.ota._current import Current
from pfm_edge.ota._keys import Ask, RoleKey, Signers, ed25519_of, read_key
from pfm_edge.ota._metadata import new_root, new_targets, target_file
from pfm_edge.ota._repository import Clock, Outcome, PublisherRepository, Work, require_new, utc_now
from pfm_edge.ota._roles import DELEGATED, Role
from pfm_edge.ota._settings import Settings
from pfm_edge.registry import read_registry
from pfm_edge_runtime.errors import ConfigError, RepositoryError
from pfm_edge_runtime.ota.forget_list import ForgetList
from pfm_edge_runtime.ota.names import FORGET_FILE

__all__ = [
    "InitRequest",
    "init_repository",
    "new_keys",
    "require_apart",
    "require_keys",
    "require_ready",
]

_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class InitRequest:
    """What a repository is made with.

    Attributes:
        registry: The class registry of the runs whose bundles are published.
        keys: The keys of every role.
        thresholds: How many of them must sign, where that is not the role's usual number.
        days: For how many days metadata holds, where that is not the role's usual number.
    """

    registry: Path
    keys: Mapping[Role, Sequence[RoleKey]]
    thresholds: Mapping[Role, int] = field(default_factory=dict)
    days: Mapping[Role, int] = field(default_factory=dict)

    def threshold(self, role: Role) -> int:
        """Return how many keys of a role must sign."""
        return self.thresholds.get(role, role.threshold)


def new_keys(folder: Path) -> dict[Role, list[RoleKey]]:
    """Draw a key for every role, two for the root, into an empty or new folder.

    For a first try: keys that lie together protect each other from nobody.

    Raises:
        KeyFileError: One of them is there already, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Role, list[RoleKey]] = {}
    for role in Role:
        names = [f"{role}-1", f"{role}-2"] if role is Role.ROOT else [role.value]
        for name in names:
            path = folder / f"{name}.pem"
            write_key_pair(path, passphrase=None)
            found.setdefault(role, []).append(read_key(str(path)))
    return found


def init_repository(
    directory: Path,
    request: InitRequest,
    *,
    ask: Ask | None = None,
    clock: Clock = utc_now,
) -> tuple[PublisherRepository, Outcome]:
    """Make a repository.

    Args:
        directory: Where; it is made, or is empty.
        request: With what.
        ask: Asks a person for the passphrase of a file.
        clock: Tells the time, UTC to the second.

    Raises:
        ConfigError: The keys make no sense.
        RepositoryError: There is a repository already.
        RegistryError: The registry is missing or damaged.
        StorageError: The disk refused.
    """
    for role in Role:
        require_keys(
            role, [each.public for each in request.keys.get(role, ())], request.threshold(role)
        )
    require_apart({role: [each.key_id for each in request.keys[role]] for role in Role})
    require_ready(directory, request.registry)
    named = [each for role in Role for each in request.keys[role]]
    settings = Settings(
        request.registry.absolute(),
        {role: request.days.get(role, role.days) for role in Role},
        {each.key_id: each.source for each in named if each.source is not None},
    )
    repository = PublisherRepository.create(directory, settings, clock=clock)
    with repository.held() as made:
        if made != settings or Current.read(repository.layout).metadata:
            raise RepositoryError(f"{directory}: another process has just made it")
        work = Work(repository, settings, Current(repository.layout), Signers(named, ask=ask))
        return repository, work.settle(_first_change(work, request))


def require_ready(directory: Path, registry: Path) -> None:
    """Require that a repository can be made, before keys are drawn for it.

    Raises:
        ConfigError: The registry lies in the repository.
        RepositoryError: There is a repository already, or something else.
        RegistryError: The registry is missing or damaged.
    """
    require_new(directory)
    read_registry(registry)
    if registry.absolute().parent == directory.absolute():
        raise ConfigError(f"{registry}: keep the registry outside of the repository")


def require_keys(role: Role, keys: Sequence[Key], threshold: int) -> None:
    """Refuse keys that make no sense for a role.

    Raises:
        ConfigError: One is there twice, there are fewer than must sign, or one has the wrong kind.
    """
    values = {each.keyval["public"] for each in keys}
    if len({each.keyid for each in keys}) != len(keys) or len(values) != len(keys):
        raise ConfigError(f"{role}: a key is there twice; a threshold counts different keys")
    if not 1 <= threshold <= len(keys):
        raise ConfigError(
            f"{role}: a threshold of {threshold} makes no sense with {len(keys)} keys: name more "
            f"with --{role}-key, or another number with --threshold {role}=N"
        )
    if role in DELEGATED and any(ed25519_of(each) is None for each in keys):
        raise ConfigError(f"{role}: its keys must be Ed25519: they sign bundles and forget lists")


def require_apart(key_ids: Mapping[Role, Collection[str]]) -> None:
    """Keep the keys that lie on a server out of the roles that must survive its theft.

    Raises:
        ConfigError: A key of the snapshot or the timestamp serves another role, too.
    """
    online = {each for role in Role if role.online for each in key_ids[role]}
    for role in (each for each in Role if not each.online):
        if not online.isdisjoint(key_ids[role]):
            raise ConfigError(
                f"{role}: a key of snapshot or timestamp must serve nothing else: it lies where a "
                "scheduler reads it"
            )


def _first_change(work: Work, request: InitRequest) -> Change:
    keys = {role: [each.public for each in request.keys[role]] for role in Role}
    thresholds = {role: request.threshold(role) for role in Role}
    metadata = {
        Role.ROOT: new_root(keys, thresholds, work.expires(Role.ROOT)),
        **new_targets(keys, thresholds, work.expires(Role.TARGETS)),
    }
    for role in DELEGATED:
        metadata[role].signed.expires = work.expires(role)
    data = ForgetList(1, work.now.strftime(_TIME), ()).seal([])
    metadata[Role.FORGET].signed.targets[FORGET_FILE] = target_file(FORGET_FILE, data)
    return Change("init", metadata, {FORGET_FILE: data})
