"""Enrolled devices: the keys whose receipts count, registered out of band.

Owns `REPO/devices`, one public key a device, named by its key id::

    enrol(repository, [Path("camera-17.pub")])
    enrolled_devices(repository)                # {"5f0c…": public key}
    retire(repository, ["5f0c6e3e9d6c"])

Nothing that comes with a receipt is ever taken for a device's key: a key that signs its own
introduction proves nothing.
"""

# ruff: noqa: PTH102, PTH108 (system calls by name: the fault tests count them)

import os
from collections.abc import Sequence
from pathlib import Path

from pfm_edge._key_files import read_public_key
from pfm_edge.ota._repository import PublisherRepository
from pfm_edge.ota._rotation import find_key
from pfm_edge_runtime._disk import mapped_errors, sync
from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.keys import PublicKey, key_id, public_to_pem
from pfm_edge_runtime.store import write_atomic

__all__ = ["enrol", "enrolled_devices", "retire"]

_SUFFIX = ".pub"


def enrol(repository: PublisherRepository, files: Sequence[Path]) -> tuple[str, ...]:
    """Enrol devices by the public keys that `pfm-device init` wrote; again is no error.

    Returns:
        The ids of their keys.

    Raises:
        KeyFileError: A file is no public key; then none is enrolled.
        StorageError: The disk refused; those before it are enrolled.
    """
    keys = [read_public_key(each) for each in files]
    with repository.held():
        folder = repository.layout.devices
        with mapped_errors(folder):
            if not folder.exists():
                os.mkdir(folder)
            sync(folder.parent)
        for key in keys:
            path = folder / (key_id(key) + _SUFFIX)
            if not path.exists():
                write_atomic(path, public_to_pem(key))
    return tuple(map(key_id, keys))


def retire(repository: PublisherRepository, names: Sequence[str]) -> tuple[str, ...]:
    """Take devices off the list, by the ids of their keys or how those begin.

    Raises:
        ConfigError: One is not enrolled.
        StorageError: The disk refused.
    """
    with repository.held():
        folder = repository.layout.devices
        known = [*enrolled_devices(repository)]
        gone = [find_key(each, known, "no device is enrolled whose key begins") for each in names]
        with mapped_errors(folder):
            for each in gone:
                os.unlink(folder / (each + _SUFFIX))
            if gone:
                sync(folder)
    return tuple(gone)


def enrolled_devices(repository: PublisherRepository) -> dict[str, PublicKey]:
    """Return the enrolled keys by their ids, ascending.

    Raises:
        RepositoryError: A file of them is another key than its name says.
        KeyFileError: A file is no public key.
    """
    folder = repository.layout.devices
    found = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else ():
        key = read_public_key(path)
        if key_id(key) != path.stem:
            raise RepositoryError(f"{path}: it is the key {key_id(key)[:16]}…: rename or remove it")
        found[path.stem] = key
    return found
