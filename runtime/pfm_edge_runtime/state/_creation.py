"""How a device's memory begins, and how it goes on under another key.

Owns the order of the steps. Key and trust are on the disk before the ledger is, and the ledger
appears by one rename: before that there is no state, and creating it again starts over::

    create(layout, trust=None, bind=False, moment=read_clock())
"""

# ruff: noqa: PTH108 (system calls by name: the fault tests count them)

import os
from pathlib import Path

from pfm_edge_runtime._disk import SUFFIX, discard
from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import KeyFileError, StateError
from pfm_edge_runtime.keys import SigningKey, public_to_pem
from pfm_edge_runtime.state._clock import Moment
from pfm_edge_runtime.state._layout import (
    PRIVATE,
    PUBLIC,
    Layout,
    locked,
    make_directory,
    put,
    read_file,
    refused,
)
from pfm_edge_runtime.state._ledger import NOTHING, encode
from pfm_edge_runtime.state._machine import machine_digest
from pfm_edge_runtime.state._records import InitRecord
from pfm_edge_runtime.state._repository import (
    MAX_REPOSITORY_BYTES,
    RepositoryTrust,
    repository_from_bytes,
    repository_to_bytes,
)
from pfm_edge_runtime.state._trust import ManagedTrust, trust_from_bytes, trust_to_bytes

__all__ = [
    "create",
    "new_key",
    "read_key",
    "read_repository",
    "read_trust",
    "write_repository",
    "write_trust",
]

_MAX_KEY_BYTES = 16_384
_MAX_TRUST_BYTES = 2**16
_OURS = {"device.key", "device.pub", "engines", "lock", "lost+found", "ota", "trust"}
_NO_STATE = "there is no state yet"


def create(layout: Layout, *, trust: TrustedKeys | None, bind: bool, moment: Moment) -> bool:
    """Write a new state; tell whether it was needed, because another process may be first.

    Raises:
        StateError: The directory belongs to something else.
        StorageError: The disk refused; there is no state.
    """
    with refused(layout.directory, _NO_STATE):
        make_directory(layout.directory)
        _require_ours(layout.directory)
    with locked(layout):
        if os.path.lexists(layout.ledger):
            return False
        with refused(layout.directory, _NO_STATE):
            for leftover in layout.leftovers():
                os.unlink(leftover)
            key = _kept_key(layout) or new_key(layout)
            if trust is not None:
                write_trust(layout, ManagedTrust(trust))
            record = InitRecord(
                device=key.key_id,
                machine=machine_digest() if bind else None,
                # One that did not come as far as the ledger may have been told whom to trust.
                managed=trust is not None or os.path.lexists(layout.trust),
                moment=moment,
            )
            _begin(layout.ledger, encode(record, number=1, previous=NOTHING))
    return True


def new_key(layout: Layout) -> SigningKey:
    """Draw a key and write both of its files.

    Raises:
        OSError: The disk refused.
    """
    key = SigningKey.generate()
    put(layout.public_key, public_to_pem(key.public), PUBLIC)
    put(layout.key, key.to_pem(), PRIVATE)
    return key


def read_key(layout: Layout) -> SigningKey:
    """Read the device's key.

    Raises:
        StateError: It is missing, unreadable or no such key.
    """
    try:
        return SigningKey.from_pem(read_file(layout.key, _MAX_KEY_BYTES))
    except FileNotFoundError as error:
        raise StateError(
            f"{layout.key} is missing: put it back, or draw another with pfm-device init --adopt"
        ) from error
    except (KeyFileError, StateError) as error:
        raise StateError(
            f"{layout.key}: {error}; put the device's own key back, or draw another with "
            "pfm-device init --adopt"
        ) from error


def read_trust(layout: Layout) -> ManagedTrust | None:
    """Read whom to trust; ``None`` if nobody was named.

    Raises:
        StateError: The file is unreadable or damaged.
    """
    try:
        return trust_from_bytes(read_file(layout.trust, _MAX_TRUST_BYTES))
    except FileNotFoundError:
        return None
    except StateError as error:
        raise StateError(
            f"{layout.trust}: {error}; write it again with pfm-device init --replace-trust "
            "--key ISSUER.pub"
        ) from error


def write_trust(layout: Layout, trust: ManagedTrust) -> None:
    """Write whom to trust.

    Raises:
        OSError: The disk refused; the file is as it was.
    """
    make_directory(layout.trust.parent)
    put(layout.trust, trust_to_bytes(trust), PUBLIC)


def read_repository(layout: Layout) -> RepositoryTrust | None:
    """Read what is known of the repository; ``None`` if the device was told of none.

    Raises:
        StateError: The file is unreadable or damaged.
    """
    try:
        return repository_from_bytes(read_file(layout.repository, MAX_REPOSITORY_BYTES))
    except FileNotFoundError:
        return None
    except StateError as error:
        raise StateError(
            f"{layout.repository}: {error}; write it again with pfm-device init --replace-trust "
            "--root root.json"
        ) from error


def write_repository(layout: Layout, trust: RepositoryTrust) -> None:
    """Write what is known of the repository.

    Raises:
        OSError: The disk refused; the file is as it was.
    """
    folder, name = layout.repository.parent, layout.repository.name
    make_directory(folder)
    for leftover in folder.glob(f".{name}.*{SUFFIX}"):
        os.unlink(leftover)
    put(layout.repository, repository_to_bytes(trust), PUBLIC)


def _require_ours(directory: Path) -> None:
    """Keep a mistyped name from filling somebody's home with keys."""
    for entry in directory.iterdir():
        if entry.name not in _OURS | {"ledger.jsonl"} and not entry.name.startswith("."):
            raise StateError(
                f"{directory} holds {entry.name!a}, so it is no device state: "
                "name an empty directory"
            )


def _kept_key(layout: Layout) -> SigningKey | None:
    """Return the key of a creation that did not come as far as the ledger."""
    try:
        key = read_key(layout)
    except StateError:
        return None
    put(layout.public_key, public_to_pem(key.public), PUBLIC)
    return key


def _begin(path: Path, line: bytes) -> None:
    try:
        put(path, line, PRIVATE)
    except BaseException:
        discard(path)  # a ledger whose name is not on disk could lose what is appended to it
        raise
