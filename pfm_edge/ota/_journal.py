"""The journal: a change is on the disk, whole, before any of it can be seen.

Owns `pending/` and `committing/`. A change waits for signatures in the first; when it has them all,
one rename puts it whole into the second. That decides it, and from then on it is carried out, by
this process or by the next (`_commit`)::

    store(layout, change, current, complete=False)
    stored = load(layout.pending)
    stored.change, stored.base
    decide(layout, change, current)

Both folders hold all that is needed to go on with the change: a copy of `pending/` can be signed on
another machine.
"""

# ruff: noqa: PTH102, PTH104, PTH106 (system calls by name: the fault tests count them)

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge.ota._change import Change
from pfm_edge.ota._current import Current
from pfm_edge.ota._layout import Layout
from pfm_edge.ota._metadata import AnyMetadata, parse_metadata, target_file
from pfm_edge.ota._roles import DELEGATED, Role
from pfm_edge_runtime._disk import SUFFIX, mapped_errors, sibling, sync
from pfm_edge_runtime._strict_json import JsonLimits, StrictJsonError, canonical, parse_canonical
from pfm_edge_runtime.bundle import BundleLimits
from pfm_edge_runtime.erasure import erase
from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.store import staged_directory, write_atomic

__all__ = [
    "Stored",
    "clear_leftovers",
    "decide",
    "discard",
    "is_change",
    "load",
    "store",
    "update",
]

_FORMAT = "pfm-ota-change/1"
_MAX_METADATA = 1 << 26
_CHANGE, _REMOVE, _SIGNED, _METADATA, _BASE, _TARGETS = (
    "change.json",
    "remove.json",
    "signed.json",
    "metadata",
    "base",
    "targets",
)
_PATH = re.compile(
    r"channel/[0-9a-f]{64}\.json"
    r"|bundles/[0-9a-f]{64}/[1-9][0-9]{0,15}-[1-9][0-9]{0,15}\.safetensors"
    r"|forget\.json"
)
_LIMITS = JsonLimits(max_bytes=1 << 24, max_containers=8, max_values=1 << 18)


@dataclass(frozen=True, slots=True)
class Stored:
    """A change as it lies in one of the two folders.

    Attributes:
        change: The change.
        base: The metadata that was in force when it was made.
        remove: Paths below the repository of the files that go; known once it is decided.
        signed: When its timestamp was signed, if that is known.
    """

    change: Change
    base: Mapping[Role, AnyMetadata]
    remove: tuple[str, ...] = ()
    signed: datetime | None = None


def store(
    layout: Layout,
    change: Change,
    current: Current,
    *,
    complete: bool,
    signed: datetime | None = None,
) -> None:
    """Write a new change: one that is complete is decided by that, another waits.

    Args:
        layout: Where.
        change: The change.
        current: What is in force.
        complete: Whether it lacks no signature.
        signed: When its timestamp was signed, if that is known.

    Raises:
        RepositoryError: It names a target that it does not hold.
        StorageError: The disk refused, and nothing is there.
    """
    folder = layout.committing if complete else layout.pending
    gone = _removed(layout, change, current) if complete else []
    with staged_directory(folder, overwrite=False) as staging:
        for name, data in _files(change).items():
            _write(staging / name, data)
        for role, metadata in current.metadata.items():
            _write(staging / _BASE / f"{role}.json", metadata.to_bytes())
        if complete:
            _write(staging / _REMOVE, canonical([*gone]))
            if signed is not None:
                _write(staging / _SIGNED, canonical(signed.isoformat()))


def update(pending: Path, change: Change, *, signed: datetime | None = None) -> None:
    """Write a change that got more signatures over the one that is there.

    Every file is replaced by itself: each state in between has some of the new signatures. When the
    timestamp was ``signed``, if it was now, comes before that.

    Raises:
        StorageError: The disk refused.
    """
    if signed is not None:
        write_atomic(pending / _SIGNED, canonical(signed.isoformat()))
    for name, data in _files(change).items():
        path = pending / name
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)


def load(folder: Path) -> Stored:
    """Read a change.

    Raises:
        RepositoryError: There is none, or it is damaged.
    """
    kind = _read_header(folder / _CHANGE)
    metadata = _read_metadata(folder / _METADATA)
    paths = [path for role in DELEGATED if role in metadata for path in _paths(metadata[role])]
    most = BundleLimits().max_file_bytes
    targets = {
        path: read_whole(folder / _TARGETS / path, most=most, error=RepositoryError)
        for path in paths
        if (folder / _TARGETS / path).exists()
    }
    remove: tuple[str, ...] = ()
    if (folder / _REMOVE).exists():
        remove = _texts(_read_json(folder / _REMOVE))
    signed = _read_time(folder / _SIGNED) if (folder / _SIGNED).exists() else None
    base = _read_metadata(folder / _BASE)
    if not (base or metadata).keys() >= {Role.ROOT, Role.TARGETS, *DELEGATED}:
        raise RepositoryError(f"{folder}: some of its metadata is missing; copy all of it again")
    return Stored(Change(kind, metadata, targets), base, remove, signed)


def decide(layout: Layout, change: Change, current: Current) -> None:
    """Let the complete change in `pending/` be carried out: from here on it will be.

    Raises:
        RepositoryError: A target is missing, or is not the one that was signed.
        StorageError: The disk refused.
    """
    write_atomic(layout.pending / _REMOVE, canonical([*_removed(layout, change, current)]))
    with mapped_errors(layout.committing):
        os.rename(layout.pending, layout.committing)
        sync(layout.directory)


def is_change(folder: Path) -> bool:
    """Tell whether a folder is one of these."""
    return (folder / _CHANGE).exists()


def discard(folder: Path) -> None:
    """Remove one of the two folders: at once by its name, then erasing what is in it.

    Raises:
        StorageError: The disk refused; what is left waits for :func:`clear_leftovers`.
    """
    aside = sibling(folder)
    with mapped_errors(folder):
        os.rename(folder, aside)
        sync(folder.parent)
    _clear(aside)


def clear_leftovers(layout: Layout) -> None:
    """Remove what a crash left of folders that were being written or removed, and of files.

    Raises:
        StorageError: The disk refused; what is left waits for the next call.
    """
    for each in sorted(layout.directory.iterdir()):
        if _is_temporary(each.name) and each.is_dir():
            _clear(each)
    for root, _, files in os.walk(layout.pending):
        for name in filter(_is_temporary, files):
            erase(Path(root, name))


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(SUFFIX)


def _clear(folder: Path) -> None:
    """Remove a folder; the class tensors in it are erased."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            erase(Path(root, name))
        with mapped_errors(folder):
            os.rmdir(root)
    with mapped_errors(folder):
        sync(folder.parent)


def _files(change: Change) -> dict[str, bytes]:
    """Return the files of a change: targets first, metadata then, so that hashes come last."""
    header = {"format": _FORMAT, "kind": change.kind}
    return {
        _CHANGE: canonical({**header}),
        **{f"{_TARGETS}/{path}": data for path, data in change.targets.items()},
        **{f"{_METADATA}/{role}.json": each.to_bytes() for role, each in change.metadata.items()},
    }


def _removed(layout: Layout, change: Change, current: Current) -> list[str]:
    """List the files of targets that are in force, and will not be."""
    staying = {layout.public_target(*each) for each in _files_after(change, current)}
    return sorted(str(each.relative_to(layout.directory)) for each in current.files() - staying)


def _files_after(change: Change, current: Current) -> Iterable[tuple[str, str]]:
    """Yield path and hash of every target that the change leads to.

    Raises:
        RepositoryError: One is not there, or is another than was signed.
    """
    for role in DELEGATED:
        metadata = change.metadata.get(role)
        before = current.metadata[role].signed.targets if current.metadata else {}
        for path in _paths(metadata) if metadata is not None else before:
            listed = (metadata or current.metadata[role]).signed.targets[path]
            if path in change.targets:
                _require_same(listed, path, change.targets[path])
            elif path not in before or before[path].hashes != listed.hashes:
                raise RepositoryError(f"{path}: the change names it, and does not hold it")
            yield path, listed.hashes["sha256"]


def _require_same(listed: object, path: str, data: bytes) -> None:

    if listed != target_file(path, data):
        raise RepositoryError(f"{path}: it is not what was signed; abandon the change")


def _paths(metadata: AnyMetadata) -> list[str]:
    """Return the target paths of metadata, if they are paths of ours.

    Raises:
        RepositoryError: One of them leads elsewhere.
    """
    found = sorted(metadata.signed.targets)
    for path in found:
        if _PATH.fullmatch(path) is None:
            raise RepositoryError(f"a target is called {path!r}: no part of a repository")
    return found


def _read_header(path: Path) -> str:
    match _read_json(path):
        case {"format": str(form), "kind": str(kind), **rest} if form == _FORMAT and not rest:
            return kind
    raise RepositoryError(f"{path}: it is no change of a repository, or it was damaged")


def _read_metadata(folder: Path) -> dict[Role, AnyMetadata]:
    found = {}
    for role in Role:
        path = folder / f"{role}.json"
        if path.exists():
            data = read_whole(path, most=_MAX_METADATA, error=RepositoryError)
            found[role] = parse_metadata(role, data, str(path))
    return found


def _read_json(path: Path) -> object:
    data = read_whole(path, most=_LIMITS.max_bytes, error=RepositoryError)
    try:
        return parse_canonical(data, _LIMITS)
    except StrictJsonError as error:
        raise RepositoryError(f"{path}: it {error}") from error


def _read_time(path: Path) -> datetime:
    try:
        return datetime.fromisoformat(str(_read_json(path))).astimezone(UTC)
    except ValueError as error:
        raise RepositoryError(f"{path}: it is no time, or it was damaged") from error


def _texts(found: object) -> tuple[str, ...]:
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _write(path: Path, data: bytes) -> None:
    """Write a file that is new, in a folder that is synced as a whole later."""
    for folder in reversed(path.parents):
        if not folder.exists():
            os.mkdir(folder)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
    finally:
        os.close(descriptor)
