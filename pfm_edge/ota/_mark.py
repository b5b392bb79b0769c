"""The high-water mark: how far a repository had come, remembered outside of it.

Owns the file beside the class registry by which a repository that was restored from an older copy
is known as one. Without it, version numbers and places would be given twice, and a device that has
the first of them never looks at the second::

    path = mark_path(layout, registry)      # classes.json-5f0c6e3e9d6c4b7f.ota-mark
    raise_mark(path, Mark.of(change.metadata, change.targets))
    read_mark(path).versions[Role.TIMESTAMP]

It is named after the first root, so that repositories may share a registry. It is written once a
change is decided, before any of it can be seen: a crash in between is mended by the next command,
which carries the change out.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pfm_edge._reading import read_whole
from pfm_edge.ota._issue import channels_of, releases_of
from pfm_edge.ota._layout import Layout
from pfm_edge.ota._metadata import MetadataByRole, parse_metadata
from pfm_edge.ota._roles import Role
from pfm_edge.registry import MARK_SUFFIX
from pfm_edge_runtime.erasure import finish
from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota.forget_list import ForgetList
from pfm_edge_runtime.ota.names import FORGET_FILE
from pfm_edge_runtime.store import exclusive, write_atomic

__all__ = ["Mark", "delegations_of", "mark_path", "raise_mark", "read_mark"]

_FORMAT = "pfm-ota-mark/1"
_MAX_BYTES = 1 << 24
_MAX_ROOT = 1 << 22
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a repository had come.

    Attributes:
        versions: The highest version of each role's metadata.
        forget_list: The highest number of a forget list.
        places: The highest (epoch, sequence) of a bundle, by model.
        delegations: Digest of the keys of `bundles` and `forget`, as the highest version of
            targets states them.
        floor: A place that devices may have of any model: the next one comes after it.
        signed: A timestamp's version, and when it was signed by this machine's clock; no time
            where that is not known.
    """

    versions: Mapping[Role, int] = field(default_factory=dict)
    forget_list: int = 0
    places: Mapping[ModelId, tuple[int, int]] = field(default_factory=dict)
    delegations: str = ""
    floor: tuple[int, int] = (0, 0)
    signed: tuple[int, datetime | None] = (0, None)

    @classmethod
    def of(cls, metadata: MetadataByRole, targets: Mapping[str, bytes]) -> "Mark":
        """Return the mark of metadata and targets: of all of a repository, or of a change."""
        text = targets.get(FORGET_FILE)
        return cls(
            {role: each.signed.version for role, each in metadata.items()},
            0 if text is None else ForgetList.parse(text, None).number,
            {
                each.model_id: max((one.epoch, one.sequence) for one in releases_of(each))
                for each in channels_of(targets)
                if releases_of(each)
            },
            delegations_of(metadata),
        )

    def place(self, model_id: ModelId) -> tuple[int, int]:
        """Return the highest place that devices may have of a model."""
        return max(self.places.get(model_id, (0, 0)), self.floor)

    def above(self, number: int, metadata: MetadataByRole) -> "Mark":
        """Return the mark of a repository of which devices know only a timestamp's version.

        Args:
            number: That version. Each change signs a timestamp, so that no other number is above
                it; and it issues at most two bundles of a model.
            metadata: The newest that is known: of roots and keys.
        """
        epoch = metadata[Role.ROOT].signed.version
        places = [*self.places.values(), self.floor]
        top = max((each[1] for each in places if each[0] == epoch), default=0)
        versions = {role: max(self.versions.get(role, 0), number) for role in Role}
        return Mark(
            {**versions, Role.ROOT: epoch},
            max(self.forget_list, number),
            self.places,
            delegations_of(metadata),
            (epoch, top + 2 * number),
            self.signed,
        )

    def joined(self, other: "Mark") -> "Mark":
        """Return what is the higher of both, each by itself."""
        versions = {
            role: max(self.versions.get(role, 0), other.versions.get(role, 0)) for role in Role
        }
        places = {
            model: max(each.places[model] for each in (self, other) if model in each.places)
            for model in sorted({*self.places, *other.places})
        }
        newer = other.versions.get(Role.TARGETS, 0) >= self.versions.get(Role.TARGETS, 0)
        return Mark(
            versions,
            max(self.forget_list, other.forget_list),
            places,
            (newer and other.delegations) or self.delegations,
            max(self.floor, other.floor),
            max(other.signed, self.signed, key=lambda each: (each[0], each[1] is not None)),
        )

    def to_bytes(self) -> bytes:
        """Write it; equal marks give equal bytes."""
        document: dict[str, Any] = {
            "format": _FORMAT,
            "versions": {role.value: self.versions.get(role, 0) for role in Role},
            "forget_list": self.forget_list,
            "places": {model: [*place] for model, place in sorted(self.places.items())},
            "delegations": self.delegations,
            "floor": [*self.floor],
        }
        version, time = self.signed
        if time is not None:
            document["signed"] = [version, time.isoformat()]
        return (json.dumps(document, indent=2) + "\n").encode()


def delegations_of(metadata: MetadataByRole) -> str:
    """Return a digest of the keys of `bundles` and `forget`; empty where nothing states them."""
    if Role.TARGETS not in metadata:
        return ""
    stated = metadata[Role.TARGETS].signed.delegations.to_dict()
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def mark_path(layout: Layout, registry: Path) -> Path | None:
    """Return where a repository's mark is; ``None`` where no registry or no first root is."""
    first = layout.kept_root(1)
    if not first.exists() or not registry.exists():
        return None
    data = read_whole(first, most=_MAX_ROOT, error=RepositoryError)
    signed = parse_metadata(Role.ROOT, data, str(first)).signed_bytes
    digits = hashlib.sha256(signed).hexdigest()[:_DIGITS]
    return registry.with_name(f"{registry.name}-{digits}{MARK_SUFFIX}")


def read_mark(path: Path | None) -> Mark | None:
    """Read a mark; ``None`` where there is none.

    Raises:
        RepositoryError: It is damaged.
    """
    if path is None or not path.exists():
        return None
    data = read_whole(path, most=_MAX_BYTES, error=RepositoryError)
    try:
        return _parsed(json.loads(data))
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise RepositoryError(
            f"{path}: it was damaged; put it back from a backup, or remove it, where the "
            "repository itself is no older copy"
        ) from error


def raise_mark(path: Path | None, mark: Mark) -> None:
    """Raise a mark, durably; it is never lowered.

    Raises:
        RepositoryError: It is damaged.
        StorageError: The disk refused; it is as it was.
    """
    if path is None:
        return
    with exclusive(path.parent):
        finish(path)
        known = read_mark(path)
        raised = mark if known is None else known.joined(mark)
        if raised != known:
            write_atomic(path, raised.to_bytes())


def _parsed(found: Any) -> Mark:
    if found["format"] != _FORMAT:
        raise ValueError
    epoch, sequence = found.get("floor", (0, 0))  # marks of before have neither
    version, time = found.get("signed", (0, None))
    return Mark(
        {role: _number(found["versions"][role.value]) for role in Role},
        _number(found["forget_list"]),
        {
            ModelId(model): (_number(place[0]), _number(place[1]))
            for model, place in found["places"].items()
        },
        str(found["delegations"]),
        (_number(epoch), _number(sequence)),
        (_number(version), None if time is None else datetime.fromisoformat(time).astimezone(UTC)),
    )


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError
    return value
