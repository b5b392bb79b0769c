"""A class out of what was exported: a package's bundle, or what a package was turned into.

redact(Path("model"), {class_id})
redact(Path("repository/digits"), {class_id})       # a target's artefact: without it, or erased

The old bytes are erased, as far as the file system lets us.
"""

import os
from collections.abc import Collection
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge_exporters import discard_package
from pfm_edge_exporters.targets import erase_classes, is_artefact
from pfm_edge_runtime.bundle import Bundle, BundleLimits, ClassId
from pfm_edge_runtime.erasure import finish, replace_erasing
from pfm_edge_runtime.errors import BundleError, PackageError, StateError
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.manifest import BUNDLE_FILE
from pfm_edge_runtime.state import DeviceState, default_state_directory
from pfm_edge_runtime.store import clear_unfinished, exclusive

__all__ = ["redact"]


def redact(package: Path, gone: Collection[ClassId], *, noted: Collection[Path] = ()) -> bool:
    """Take classes out of the bundle of a package; what the issuer signed stays valid.

    What a killed export left beside it is removed; one that is under way is waited for.

    Args:
        package: its directory, or that of an artefact of a target; it need not exist.
        gone: class ids; those that it does not hold are no error.
        noted: what else loses them; an artefact in the same repository that is not among it is
            somebody's copy.

    Returns:
        Whether the package is there.

    Raises:
        PackageError: it or its bundle cannot be read, so nobody knows what is in it; or somebody
            put something into an artefact, or beside it, that may keep them.
        StorageError: the disk refused.
    """
    _is_there(package)  # nothing is erased where nobody can look
    clear_unfinished(package, discard_package, wait=True)
    if not _is_there(package):  # asked again: what was waited for has put it there
        return False
    if is_artefact(package):
        erase_classes(package, gone, noted=noted)
        return True
    _tell_device(package, gone)
    _rewrite(package, gone)
    return True


def _is_there(package: Path) -> bool:
    try:
        return package.is_dir()
    except OSError as error:
        raise PackageError(
            f"{package}: nobody can tell whether it is there ({error.strerror}); make its "
            "directory readable"
        ) from error


def _tell_device(package: Path, gone: Collection[ClassId]) -> None:
    """Let the device memory of this machine forget them, too, if it uses the package.

    Else it would take a class for one that somebody else had dropped, and refuse the package.
    """
    try:
        device = DeviceState.open(default_state_directory())
        bundle = _read_bundle(package)
        if bundle is None or bundle.statement_digest not in device.memory.absences:
            return
        held = [each for each in bundle.class_ids if each in gone]
        if held:
            forget_classes(package, held, state=device)
    except (BundleError, PackageError, StateError):  # it does not use the package then
        return


def _rewrite(package: Path, gone: Collection[ClassId]) -> None:
    with exclusive(package):
        path = package / BUNDLE_FILE
        finish(path)
        bundle = _read_bundle(package)
        held = [each for each in bundle.class_ids if each in gone] if bundle else []
        if bundle and held:
            replace_erasing(path, bundle.without(held).to_bytes())


def _read_bundle(package: Path) -> Bundle | None:
    path = package / BUNDLE_FILE
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        raise PackageError(f"{path} is a symbolic link: put the file itself there")
    data = read_whole(path, most=BundleLimits().max_file_bytes, error=PackageError)
    try:
        return Bundle.from_bytes(data)
    except BundleError as error:
        raise PackageError(f"{path}: {error}; remove the package, or restore it") from error
