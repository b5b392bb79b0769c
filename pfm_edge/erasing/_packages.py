"""A class out of an exported package: the bundle without it, and the old one's bytes erased.

redact(Path("model"), {class_id})
"""

import os
from collections.abc import Collection
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge_runtime.bundle import Bundle, BundleLimits, ClassId
from pfm_edge_runtime.erasure import finish, replace_erasing
from pfm_edge_runtime.errors import BundleError, PackageError
from pfm_edge_runtime.manifest import BUNDLE_FILE
from pfm_edge_runtime.store import exclusive

__all__ = ["redact"]


def redact(package: Path, gone: Collection[ClassId]) -> bool:
    """Take classes out of the bundle of a package; what the issuer signed stays valid.

    What a killed export left beside the package is treated alike.

    Args:
        package: its directory; it need not exist.
        gone: class ids; those that it does not hold are no error.

    Returns:
        Whether the package is there.

    Raises:
        PackageError: its bundle cannot be read, so nobody knows what is in it.
        StorageError: the disk refused.
    """
    for unfinished in package.parent.glob(f".{package.name}.*.tmp"):
        _redact(unfinished, gone)
    if not package.is_dir():
        return False
    _redact(package, gone)
    return True


def _redact(package: Path, gone: Collection[ClassId]) -> None:
    with exclusive(package):
        path = package / BUNDLE_FILE
        finish(path)
        data = _read(path)
        if data is None:
            return
        try:
            bundle = Bundle.from_bytes(data)
        except BundleError as error:
            raise PackageError(f"{path}: {error}; remove the package, or restore it") from error
        held = [each for each in bundle.class_ids if each in gone]
        if held:
            replace_erasing(path, bundle.without(held).to_bytes())


def _read(path: Path) -> bytes | None:
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        raise PackageError(f"{path} is a symbolic link: put the file itself there")
    return read_whole(path, most=BundleLimits().max_file_bytes, error=PackageError)
