"""What a device knows of the repository that its updates come from: ``trust/repository.json``.

Owns that file's format, in both directions. It is the part of an update's memory that must outlive
a wiped cache: the newest root that was trusted, the keys of the forget list, the versions that were
seen of each role, and a time that has passed for certain::

    repository = RepositoryTrust(root=root_json)
    repository.floors["timestamp"].version          # never below it again, under the same keys

Nothing in it is secret. It belongs to the device: no package and no server writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse,
)
from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import ConfigError, StateError
from pfm_edge_runtime.state._clock import is_time
from pfm_edge_runtime.state._fields import Fields, public_key_from, require, require_hex

__all__ = [
    "MAX_REPOSITORY_BYTES",
    "RepositoryTrust",
    "RoleFloor",
    "repository_from_bytes",
    "repository_to_bytes",
]

MAX_REPOSITORY_BYTES = 2**20
_FORMAT = "pfm-repository/1"


@dataclass(frozen=True, slots=True)
class RoleFloor:
    """The highest version that was seen of a role.

    Attributes:
        keys: Digest of the keys and the threshold that it was seen under: other keys begin anew.
        version: The version.
    """

    keys: str
    version: int

    def __post_init__(self) -> None:
        require_hex(self.keys, "keys")
        require(type(self.version) is int and self.version >= 1, "version")


@dataclass(frozen=True, slots=True)
class RepositoryTrust:
    """What a device knows of its repository.

    Attributes:
        root: TUF's root metadata, the newest that was trusted, as its file.
        forget: Whose signatures on a forget list count; ``None`` before the first update.
        bundles: Whose signatures on bundles it named last, once the device trusts them.
        floors: The highest version that was seen, by role.
        time: A time that has passed for certain, UTC to the second: the highest ``issued_at`` of
            what verified. ``None`` before there was any.
        cohort: The cohort that this device is in, for rollouts.
    """

    root: bytes
    forget: TrustedKeys | None = None
    bundles: TrustedKeys | None = None
    floors: Mapping[str, RoleFloor] = field(default_factory=dict)
    time: str | None = None
    cohort: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.root), "root")
        require(self.time is None or is_time(self.time), "time")

    @property
    def root_version(self) -> int:
        """Version of the root; no bundle's epoch may be above it.

        Raises:
            StateError: What was written as the root is none.
        """
        try:
            version = json.loads(self.root)["signed"]["version"]
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise StateError("field root is malformed") from error
        require(type(version) is int, "root")
        return int(version)


def repository_from_bytes(data: bytes) -> RepositoryTrust:
    """Read the file.

    Raises:
        StateError: It breaks the format.
    """
    try:
        fields = Fields(parse(data, JsonLimits(max_bytes=MAX_REPOSITORY_BYTES), floats=False))
        require(fields.text("format") == _FORMAT, "format")
        found = RepositoryTrust(
            root=fields.text("root").encode("utf-8"),
            forget=_keys_from(fields.object_or_null("forget")),
            bundles=_keys_from(fields.object_or_null("bundles")),
            floors=_floors_from(fields.objects("floors")),
            time=fields.text_or_null("time"),
            cohort=fields.text_or_null("cohort"),
        )
        fields.finish()
    except (ConfigError, StrictJsonError) as error:
        raise StateError(f"it {error}") from error
    return found


def repository_to_bytes(trust: RepositoryTrust) -> bytes:
    """Write the file.

    Raises:
        StateError: The root is no text.
    """
    floors: list[JsonValue] = [
        {"role": role, "keys": floor.keys, "version": floor.version}
        for role, floor in sorted(trust.floors.items())
    ]
    try:
        root = trust.root.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StateError("a repository's root is no text") from error
    value: dict[str, JsonValue] = {
        "format": _FORMAT,
        "root": root,
        "forget": _fields_of(trust.forget),
        "bundles": _fields_of(trust.bundles),
        "floors": floors,
        "time": trust.time,
        "cohort": trust.cohort,
    }
    return canonical(value) + b"\n"


def _fields_of(trust: TrustedKeys | None) -> JsonValue:
    if trust is None:
        return None
    keys: list[JsonValue] = [each.hex() for each in sorted(trust.keys)]
    return {"keys": keys, "threshold": trust.threshold}


def _keys_from(fields: Fields | None) -> TrustedKeys | None:
    if fields is None:
        return None
    keys = [public_key_from(each) for each in fields.texts("keys")]
    found = TrustedKeys(fields.integer("threshold"), frozenset(keys))
    fields.finish()
    require(bool(keys) and len(found.keys) == len(keys), "keys")
    return found


def _floors_from(rows: tuple[Fields, ...]) -> Mapping[str, RoleFloor]:
    found = [
        (each.text("role"), RoleFloor(each.text("keys"), each.integer("version"))) for each in rows
    ]
    for each in rows:
        each.finish()
    require(all(one[0] < other[0] for one, other in pairwise(found)), "floors")
    return MappingProxyType(dict(found))
