"""The registry's file: read whole, changed under a lock, replaced whole.

Owns where the bytes come from and go to::

    read_registry(Path("runs/digits/classes.json"))
    change_registry(Path("classes.json"), lambda known: known.with_labels(labels), create=True)
"""

import os
from collections.abc import Callable
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge.errors import RegistryError
from pfm_edge.registry._document import Registry
from pfm_edge_runtime.erasure import finish, replace_erasing
from pfm_edge_runtime.errors import StorageError
from pfm_edge_runtime.store import exclusive, write_atomic

__all__ = ["MARK_SUFFIX", "change_registry", "read_registry"]

MARK_SUFFIX = ".ota-mark"
"""How the names of files end that remember, beside a registry, how far a repository had come."""

_MAX_BYTES = 1 << 24  # 10,000 classes with long labels have 10 MB


def read_registry(path: Path) -> Registry:
    """Read a registry.

    Raises:
        RegistryError: It is missing, unreadable or damaged.
    """
    found = _read(path)
    if found is None:
        raise RegistryError(f"{path}: no class registry there; put it back from a backup")
    return found


def change_registry(
    path: Path,
    change: Callable[[Registry], Registry],
    *,
    create: bool = False,
    erasing: bool = False,
) -> Registry:
    """Replace a registry by what `change` makes of it, with no other process in between.

    Args:
        path: the file.
        change: from the registry as it is to the one that shall be; may raise.
        create: start from an empty registry where there is no file.
        erasing: overwrite the old bytes, and what a crash left of them.

    Returns:
        The registry as it is on disk now.

    Raises:
        RegistryError: it is missing, unreadable or damaged.
        StorageError: the disk refused, and it is as it was; or only the old bytes are still there.
    """
    with exclusive(path.parent):
        found = _read(path)
        if found is None and not create:
            raise RegistryError(f"{path}: no class registry there; put it back from a backup")
        changed = change(found or Registry())
        if changed == found:
            if erasing:
                finish(path)
        elif erasing:
            _require_no_link(path)
            replace_erasing(path, changed.to_bytes())
        else:
            write_atomic(path, changed.to_bytes())
    return changed


def _read(path: Path) -> Registry | None:
    if not os.path.lexists(path):
        return None
    data = read_whole(path, most=_MAX_BYTES, error=RegistryError)
    try:
        return Registry.from_bytes(data)
    except RegistryError as error:
        raise RegistryError(
            f"{path}: damaged class registry ({error}); put it back from a backup"
        ) from error


def _require_no_link(path: Path) -> None:
    """A link is refused: the file behind it would keep what shall be erased."""
    if path.is_symlink():
        raise StorageError(f"{path} is a symbolic link: write to the file that it points to")
