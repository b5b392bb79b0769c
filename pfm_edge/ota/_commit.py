"""Carrying out a change that is decided: what a device can see, in an order that always holds.

Owns the way from `committing/` into `public/`. Whatever interrupts it, the next command of the
publisher starts it again from the top, and doing it twice is doing it once::

    finish(layout, registry)       # nothing to do: the usual case

The order: the registry forgets; the high-water mark; targets; root; targets metadata and
delegations; snapshot; the plain forget list; the timestamp. A device that asks in between sees the
old timestamp, and everything that it names. Then old targets are overwritten and removed, and last
the journal. A decided change that came back with an older copy of the repository is left alone
(`_standing`).
"""

# ruff: noqa: PTH108 (system calls by name: the fault tests count them)

import os
import re
from dataclasses import replace
from pathlib import Path

from pfm_edge.ota._files import put
from pfm_edge.ota._issue import BUNDLES_FOLDER
from pfm_edge.ota._journal import Stored, clear_leftovers, discard, load
from pfm_edge.ota._layout import Layout
from pfm_edge.ota._mark import Mark, mark_path, raise_mark, read_mark
from pfm_edge.ota._roles import DELEGATED, Role
from pfm_edge.ota._roots import keep_roots
from pfm_edge.registry import change_registry
from pfm_edge_runtime._disk import mapped_errors
from pfm_edge_runtime.erasure import erase
from pfm_edge_runtime.erasure import finish as finish_file
from pfm_edge_runtime.ota.forget_list import ForgetList
from pfm_edge_runtime.ota.names import FORGET_FILE

__all__ = ["finish"]

_KEPT_VERSIONS = 10  # of each role's metadata: a device may be in the middle of a refresh
_VERSIONED = re.compile(r"([1-9][0-9]*)\.([a-z]+)\.json")


def finish(layout: Layout, registry: Path) -> bool:
    """Carry out the change that is decided, if there is one, and remove what a crash left.

    Args:
        layout: The repository.
        registry: The class registry that forgets along with it.

    Returns:
        Whether there was one.

    Raises:
        StorageError: The disk refused; the next call goes on.
        RegistryError: The registry cannot be changed; the next call goes on.
    """
    keep_roots(layout)
    stored = load(layout.committing) if layout.committing.exists() else None
    decided = stored is not None and not _outdone(stored, layout, registry)
    if stored is not None and decided:
        _forget(stored, registry)
        _keep_first_root(stored, layout)
        metadata = {**stored.base, **stored.change.metadata}
        mark = Mark.of(metadata, stored.change.targets)
        mark = replace(mark, signed=(mark.versions[Role.TIMESTAMP], stored.signed))
        raise_mark(mark_path(layout, registry), mark)
        _publish(stored, layout)
        _remove(stored, layout)
        discard(layout.committing)
    clear_leftovers(layout)
    finish_file(layout.settings)
    return decided


def _outdone(stored: Stored, layout: Layout, registry: Path) -> bool:
    """Tell whether later changes than this one were carried out, in another copy of all this."""
    mark = read_mark(mark_path(layout, registry))
    version: int = stored.change.metadata[Role.TIMESTAMP].signed.version
    return mark is not None and version < mark.versions[Role.TIMESTAMP]


def _keep_first_root(stored: Stored, layout: Layout) -> None:
    """Keep the root of the very first change early: the mark is named after it."""
    root = stored.change.metadata.get(Role.ROOT)
    if root is not None and root.signed.version == 1:
        put(layout, layout.kept_root(1), root.to_bytes())


def _forget(stored: Stored, registry: Path) -> None:
    if FORGET_FILE not in stored.change.targets:
        return
    rows = ForgetList.parse(stored.change.targets[FORGET_FILE], None).rows
    if rows:
        class_ids = [each.class_id for each in rows]
        change_registry(registry, lambda known: known.without(class_ids), erasing=True)


def _publish(stored: Stored, layout: Layout) -> None:
    change = stored.change
    metadata = change.metadata
    for path, data in sorted(change.targets.items()):
        role = Role.FORGET if path == FORGET_FILE else Role.BUNDLES
        sha256 = metadata[role].signed.targets[path].hashes["sha256"]
        put(layout, layout.public_target(path, sha256), data)
    for role in (Role.ROOT, Role.TARGETS, *DELEGATED, Role.SNAPSHOT):
        if role in metadata:
            path_ = layout.public_metadata(role, metadata[role].signed.version)
            put(layout, path_, metadata[role].to_bytes())
    if Role.ROOT in metadata:
        root = metadata[Role.ROOT].to_bytes()
        put(layout, layout.device_root, root)
        put(layout, layout.kept_root(metadata[Role.ROOT].signed.version), root)
    for path, data in sorted(change.targets.items()):
        if not path.startswith(BUNDLES_FOLDER):
            put(layout, layout.kept_target(path), data)
    for role in (each for each in Role if each in metadata):
        put(layout, layout.metadata(role), metadata[role].to_bytes())
    if FORGET_FILE in change.targets:
        put(layout, layout.plain_forget_list, change.targets[FORGET_FILE])
    put(layout, layout.public_metadata(Role.TIMESTAMP, 0), metadata[Role.TIMESTAMP].to_bytes())


def _remove(stored: Stored, layout: Layout) -> None:
    for name in stored.remove:
        path = layout.directory / name
        if path.parent.is_dir():
            finish_file(path)
        if os.path.lexists(path):
            erase(path)
    for path in _outdated(stored, layout):
        with mapped_errors(path):
            os.unlink(path)


def _outdated(stored: Stored, layout: Layout) -> list[Path]:
    """List old versions of metadata; roots stay, because every device walks through all of them."""
    found = []
    for path in sorted(layout.public_metadata(Role.TIMESTAMP, 0).parent.iterdir()):
        match = _VERSIONED.fullmatch(path.name)
        if match is None or match[2] == Role.ROOT or match[2] not in [*Role]:
            continue
        newest = stored.change.metadata.get(Role(match[2]))
        if newest is not None and int(match[1]) <= newest.signed.version - _KEPT_VERSIONS:
            found.append(path)
    return found
