"""Writing one file of a repository so that it is there after a crash, whoever wrote it.

put(layout, layout.metadata(Role.ROOT), data)
"""

# ruff: noqa: PTH102 (system calls by name: the fault tests count them)

import os
from contextlib import suppress
from pathlib import Path

from pfm_edge.ota._layout import Layout
from pfm_edge_runtime._disk import mapped_errors, sync
from pfm_edge_runtime.erasure import finish
from pfm_edge_runtime.store import confirm, write_atomic

__all__ = ["holds", "put"]


def put(layout: Layout, path: Path, data: bytes) -> None:
    """Write a file of the repository, durably, with the folders that lead to it.

    Raises:
        StorageError: The disk refused.
    """
    with mapped_errors(path):
        _make_folders(layout.directory, path.parent)
    finish(path)
    if holds(path, data):
        confirm(path)
    else:
        write_atomic(path, data)
        with mapped_errors(path):
            sync(path.parent)  # the old file's second name is gone for good, too


def holds(path: Path, data: bytes) -> bool:
    """Tell whether a file has exactly these bytes."""
    with suppress(OSError):  # what cannot be read is written anew
        return path.is_file() and path.read_bytes() == data
    return False


def _make_folders(top: Path, folder: Path) -> None:
    """Make folders below ``top``, and sync each one's name, whoever made it."""
    if folder == top:
        return
    _make_folders(top, folder.parent)
    if not folder.exists():
        os.mkdir(folder)
    sync(folder.parent)
