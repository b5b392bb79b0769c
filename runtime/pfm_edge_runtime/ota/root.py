"""The root that a device is told of: whom a repository belongs to.

Owns the look at a ``root.json`` before a device trusts it for good::

    data = read_root(Path("root.json"))
    root_version(data)                     # 1
"""

from pathlib import Path

from pfm_edge_runtime.errors import FetchError, RepositoryError, StateError, UpdateError
from pfm_edge_runtime.ota._client import stated_version
from pfm_edge_runtime.ota._directory import read_whole
from pfm_edge_runtime.ota._keys import require_distinct_keys
from pfm_edge_runtime.state import DeviceState, RepositoryTrust

__all__ = ["MAX_ROOT_BYTES", "known_repository", "read_root", "root_version"]

MAX_ROOT_BYTES = 2**17
"""Size above which no root is read: one with 100 keys has 20 KB."""


def read_root(path: Path) -> bytes:
    """Read a root and check that it is one, complete and signed by enough of its own keys.

    Raises:
        RepositoryError: It is none, or cannot be read.
        UpdateError: The extra ``ota`` is not installed.
    """
    try:
        data = read_whole(path, MAX_ROOT_BYTES)
    except FetchError as error:
        raise RepositoryError(str(error)) from error
    try:
        from tuf.api import exceptions
        from tuf.api.metadata import Metadata, Root
    except ImportError as error:
        raise UpdateError(
            "to follow a repository needs tuf: pip install 'pfm-edge-runtime[ota]'"
        ) from error
    try:
        found = Metadata[Root].from_bytes(data)
        if found.signed.type != Root.type:
            raise ValueError(f"it is {found.signed.type} metadata")  # noqa: TRY301 (one fix)
        found.signed.verify_delegate(Root.type, found.signed_bytes, found.signatures)
    except (exceptions.RepositoryError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RepositoryError(
            f"{path} is no root that can be trusted: {reason}; give a publisher's public/root.json"
        ) from error
    try:
        require_distinct_keys(found.signed.keys, "root")
    except RepositoryError as error:
        raise RepositoryError(f"{path}: {error}") from error
    if not found.signed.consistent_snapshot:
        raise RepositoryError(
            f"{path} is of a repository without consistent snapshots: publish it again"
        )
    return data


def known_repository(device: DeviceState) -> RepositoryTrust:
    """Return what a device knows of the repository of its updates.

    Raises:
        StateError: It was told of none.
    """
    known = device.repository()
    if known is None:
        raise StateError(
            f"{device.directory} does not know whose updates to take: "
            "pfm-device init --root root.json"
        )
    return known


def root_version(data: bytes) -> int:
    """Return the version of a root that was verified before; 0 if it cannot be read."""
    return stated_version(data)
