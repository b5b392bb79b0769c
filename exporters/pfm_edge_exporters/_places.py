"""Where an export may go: what it may replace there, what it may not lie in, and how that goes.

Owns the difference between what an export wrote and what somebody put beside it: the first may be
replaced, the second never is::

    require_place(Path("model"), overwrite=True)     # or an error names what is in the way
    with staged_package(Path("model"), overwrite=True) as staging:
        ...                                          # the bytes of an old bundle are overwritten
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pfm_edge_runtime.artefacts import RECORD_FILE, TargetRecord, artefacts_in, is_artefact
from pfm_edge_runtime.erasure import erase, finish
from pfm_edge_runtime.errors import ConfigError, ManifestError, StorageError
from pfm_edge_runtime.manifest import BUNDLE_FILE, GOLDEN_FILE, MANIFEST_FILE, Manifest
from pfm_edge_runtime.store import require_replaceable, staged_directory

__all__ = [
    "artefact_files",
    "discard_package",
    "erase_tree",
    "files_below",
    "require_outside",
    "require_place",
    "staged_package",
]

_GRAPH = re.compile(r"backbone(?:\.[a-z0-9-]+)*\.onnx")


def require_place(out: Path, *, overwrite: bool) -> None:
    """Require that a package may be written there, before the work that makes it.

    Raises:
        ConfigError: It is in another package, or in an artefact.
        StorageError: What is there may not be replaced.
    """
    place = Path(os.path.realpath(out))
    require_outside(place, packages=True)
    made = artefacts_in(place)
    if made and made[0] == place:
        raise StorageError(f"{place} is no model package, but was made of one: name another --out")
    if made and not os.path.lexists(place / MANIFEST_FILE):
        raise StorageError(
            f"{out} is no model package, but {made[0]} in it was made of one: name another --out"
        )
    if made:  # hours of building may be in there
        raise StorageError(
            f"{made[0]} was made of the package that is in {out}, and would go with it: move it "
            "elsewhere or remove it, and build it again from the new package"
        )
    require_replaceable(place, overwrite=overwrite, marker=MANIFEST_FILE, known=_package_files)


def staged_package(out: Path, *, overwrite: bool) -> AbstractContextManager[Path]:
    """Return what yields the directory to write a package into, as ``staged_directory`` does.

    Raises:
        ConfigError: As :func:`require_place`.
        StorageError: As :func:`require_place`.
    """
    require_place(out, overwrite=overwrite)
    return staged_directory(
        out,
        overwrite=overwrite,
        marker=MANIFEST_FILE,
        known=_package_files,
        discard=discard_package,
    )


def require_outside(place: Path, *, packages: bool) -> None:
    """Require that no directory around a place is an artefact, or a package.

    Args:
        place: An absolute path.
        packages: Whether packages are asked for, too; engines lie in one.

    Raises:
        ConfigError: One is: whoever replaces it would replace what is in it.
    """
    for each in place.parents:
        if (
            packages
            and os.path.lexists(each / MANIFEST_FILE)
            and os.path.lexists(each / BUNDLE_FILE)
        ):
            raise ConfigError(
                f"{place} is in the model package {each}, where no forget looks for it: name "
                "another place with --out"
            )
        if is_artefact(each):
            raise ConfigError(
                f"{place} is in {each}, which an export replaces as a whole: name another place "
                "with --out"
            )


def _package_files(directory: Path) -> Collection[str]:
    """Return which files an export wrote into a package.

    Where the manifest is damaged, those that are named as an export names them.
    """
    try:
        listed = set(Manifest.from_bytes((directory / MANIFEST_FILE).read_bytes()).files)
    except (ManifestError, OSError):
        names = (each.name for each in directory.iterdir())
        listed = {GOLDEN_FILE, *filter(_GRAPH.fullmatch, names)}
    return {MANIFEST_FILE, BUNDLE_FILE, *listed}


def artefact_files(directory: Path) -> Collection[str]:
    """Return which files an export wrote into an artefact.

    Raises:
        PackageError: Its record is damaged, so nobody knows.
    """
    return {RECORD_FILE, *TargetRecord.read(directory).files}


def discard_package(directory: Path) -> None:
    """Remove a package, and overwrite its bundle first, for the classes in it.

    What a killed export left may be an artefact: every file of it is overwritten then.

    Raises:
        StorageError: The disk refused.
        OSError: As StorageError.
    """
    if is_artefact(directory):
        erase_tree(directory)
        return
    bundle = directory / BUNDLE_FILE
    if directory.is_dir():
        finish(bundle)
    if os.path.lexists(bundle):
        erase(bundle)
    shutil.rmtree(directory)


def erase_tree(directory: Path) -> None:
    """Overwrite and unlink every file of a directory, and remove it.

    Raises:
        StorageError: The disk refused; what is left is still there.
        OSError: As StorageError, from the removal of a directory.
    """
    # The record last: it tells whoever finds the rest what that is.
    for path in sorted(files_below(directory), key=lambda each: each.name == RECORD_FILE):
        if path.is_symlink():
            path.unlink()
        else:
            erase(path)
    shutil.rmtree(directory)


def files_below(directory: Path) -> Iterator[Path]:
    """Return every file of a directory and of those in it, sorted; links are not followed."""
    found = [Path(folder, name) for folder, _, names in os.walk(directory) for name in names]
    return iter(sorted(found))
