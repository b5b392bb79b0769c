"""What is served, against what should be: put back what was lost, name what cannot be.

Owns the comparison of `public/` with the publisher's own copies. Nothing here is believed because
it is served: files are written from those copies, or compared with their hashes::

    mended = mend(current)            # lines: what was put back
    lost = lost_files(current)        # lines: what cannot be, and what to do
    remove_strangers(current)         # bundles that no metadata names: they may hold any class
    strays = stray_files(current)     # lines: what else may, and is not ours to remove
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge.ota._current import Current
from pfm_edge.ota._files import holds, put
from pfm_edge.ota._issue import BUNDLES_FOLDER
from pfm_edge.ota._roles import Role
from pfm_edge.ota._roots import keep_roots
from pfm_edge_runtime.erasure import erase
from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.ota.names import FORGET_FILE, TARGETS_FOLDER

__all__ = ["differing", "lost_files", "mend", "remove_strangers", "strangers", "stray_files"]

_MAX_METADATA = 1 << 26
_BUNDLE = re.compile(r"[0-9a-f]{64}\.[0-9]+-[0-9]+\.safetensors")
_SMALL = re.compile(r"[0-9a-f]{64}\.(forget|[0-9a-f]{64})\.json")


def mend(current: Current) -> tuple[str, ...]:
    """Put back what is served where it is missing or another, as far as there is an own copy.

    Returns:
        One line for each file.

    Raises:
        StorageError: The disk refused; the next call goes on.
    """
    keep_roots(current.layout, verify=True)
    for name, data in current.readable_small_targets().items():
        put(current.layout, current.layout.kept_target(name), data)
    found = [*_differing(current)]
    for path, data in found:
        put(current.layout, path, data)
    return tuple(f"{path} was missing or altered, and is put back" for path, _ in found)


def differing(current: Current) -> tuple[Path, ...]:
    """Return the files that :func:`mend` would put back."""
    return tuple(path for path, _ in _differing(current))


def lost_files(current: Current) -> tuple[str, ...]:
    """Say which files cannot be put back from here, and what to do, one line each."""
    lines = []
    for path in current.paths():
        try:
            current.target(path)
        except RepositoryError as error:
            lines.append(str(error))
    for version in range(1, current.epoch + 1):
        if not current.layout.kept_root(version).exists():
            path_ = current.layout.public_metadata(Role.ROOT, version)
            lines.append(
                f"{path_} is missing, and devices that were off for long need it: copy it back "
                "from a mirror or a backup"
            )
    return tuple(lines)


def strangers(current: Current) -> list[Path]:
    """Return the bundles that lie where they are served, and are no part of what is in force."""
    return [each for each in _unnamed(current, BUNDLES_FOLDER) if _BUNDLE.fullmatch(each.name)]


def stray_files(current: Current) -> tuple[str, ...]:
    """Say which other files lie there that may hold a class: copies of somebody, one line each.

    Channels and forget lists of before hold none.
    """
    bundles = {*strangers(current)}
    return tuple(
        f"{path} is no file of this repository, and may hold a class that was forgotten: see what "
        "it is, and remove it there and from every copy of public"
        for path in _unnamed(current)
        if path not in bundles and not _SMALL.fullmatch(path.name)
    )


def remove_strangers(current: Current) -> None:
    """Erase the bundles that no metadata names: one that was lost may come back with its classes.

    Raises:
        StorageError: The disk refused; the next call goes on.
    """
    for path in strangers(current):
        erase(path)


def _unnamed(current: Current, folder: str = "") -> list[Path]:
    """Return the files below a folder of targets that no metadata in force names."""
    top = current.layout.public / TARGETS_FOLDER / folder
    found = {Path(root, name) for root, _, names in os.walk(top) for name in names}
    return sorted(found - current.files())


def _differing(current: Current) -> Iterator[tuple[Path, bytes]]:
    """Yield what must be served and is not, in the order in which it must be written."""
    for path, data in _wanted(current):
        if not holds(path, data):
            yield path, data


def _wanted(current: Current) -> Iterator[tuple[Path, bytes]]:
    layout, small = current.layout, current.readable_small_targets()
    for path, data in small.items():
        yield current.path(path), data
    for version in range(1, current.epoch + 1):
        kept = layout.kept_root(version)
        if kept.exists():
            yield layout.public_metadata(Role.ROOT, version), _own(kept)
    own = {role: _own(layout.metadata(role)) for role in Role}
    yield layout.device_root, own[Role.ROOT]
    for role in (each for each in Role if each not in {Role.ROOT, Role.TIMESTAMP}):
        version = current.metadata[role].signed.version
        yield layout.public_metadata(role, version), own[role]
    if FORGET_FILE in small:
        yield layout.plain_forget_list, small[FORGET_FILE]
    yield layout.public_metadata(Role.TIMESTAMP, 0), own[Role.TIMESTAMP]


def _own(path: Path) -> bytes:
    return read_whole(path, most=_MAX_METADATA, error=RepositoryError)
