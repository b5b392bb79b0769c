"""A folder of images, one folder a class, held out by the folder or by a draw.

Owns the layout and its checks::

    root/train/<label>/*   root/test/<label>/*     (or val/ for test/; test/ goes first)
    root/<label>/*                                 (a share of every class is held out)

Images lie directly in their class's folder and are known by their suffix; hidden files and other
suffixes are passed over. Labels are folder names in Unicode's normal form C.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pfm_edge.config import DataConfig
from pfm_edge.data._holdout import held_out
from pfm_edge.errors import DataError
from pfm_edge_runtime.bundle import BundleLimits

__all__ = ["LabelledPaths", "images_below", "scan_folder"]

# What the loader's formats are called.
_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
    | {".pbm", ".pgm", ".pnm", ".ppm"}
)
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})  # what a bundle's labels must not hold either
_Classes = Mapping[str, tuple[Path, ...]]  # sorted by label; paths sorted by name


@dataclass(frozen=True, slots=True)
class LabelledPaths:
    """What a folder holds: labels in code-point order, and (path, class index) of each image."""

    labels: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...]


def scan_folder(root: Path, config: DataConfig) -> LabelledPaths:
    """List the images of ``root``, split.

    Raises:
        DataError: No such folder, fewer than two classes, a class without images or of a name
            that cannot be a label, or a held-out part that does not fit the other.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root to the one that holds the classes")
    parts = {name: root / name for name in ("train", "test", "val") if _folders(root / name)}
    if not parts:
        train, test = _draw(root, _classes(root), config)
    elif "train" in parts and len(parts) > 1:
        held = parts.get("test") or parts["val"]
        train, test = _classes(parts["train"]), _classes(held)
        _require_same_classes(train, test, held)
    else:
        missing = "train/" if "train" not in parts else "test/ or val/"
        found = " and ".join(f"{name}/" for name in parts)
        raise DataError(f"{root}: has {found} but no {missing}; add it, or point data.root deeper")
    labels = tuple(train)
    return LabelledPaths(labels, _flat(train), _flat(test))


def images_below(root: Path) -> tuple[Path, ...]:
    """List every image of a folder and of the folders in it, whatever they are called, by path.

    Raises:
        DataError: No such folder, or no image in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name one that holds images")
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.casefold() in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise DataError(f"{root}: no images in it; add some, or name another folder")
    return tuple(
        sorted(
            found, key=lambda path: unicodedata.normalize("NFC", path.relative_to(root).as_posix())
        )
    )


def _flat(classes: _Classes) -> tuple[tuple[Path, int], ...]:
    return tuple((path, index) for index, paths in enumerate(classes.values()) for path in paths)


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(
            (each for each in folder.iterdir() if not each.name.startswith(".")),
            key=lambda path: unicodedata.normalize("NFC", path.name),
        )
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error


def _folders(folder: Path) -> list[Path]:
    return [each for each in _visible(folder) if each.is_dir()] if folder.is_dir() else []


def _classes(folder: Path) -> _Classes:
    """Return the images of every class below ``folder``, by label."""
    found: dict[str, tuple[Path, ...]] = {}
    for each in _folders(folder):
        label = _label(each)
        if label in found:
            raise DataError(f"{each}: another folder has the same label '{label}'; merge the two")
        found[label] = tuple(
            path
            for path in _visible(each)
            if path.suffix.casefold() in _SUFFIXES and path.is_file()
        )
        if not found[label]:
            raise DataError(f"{each}: no images directly in it; add some, or remove the folder")
    if len(found) < 2:  # noqa: PLR2004
        have = f"only the class '{next(iter(found))}'" if found else "no folder of a class"
        raise DataError(f"{folder}: {have}; a model needs two classes or more, a folder each")
    return dict(sorted(found.items()))


def _label(folder: Path) -> str:
    label = unicodedata.normalize("NFC", folder.name)
    if any(unicodedata.category(character) in _CONTROLS for character in label):
        raise DataError(f"{str(folder)!r}: control or undecodable characters in a label; rename it")
    if len(label.encode()) > BundleLimits().max_label_bytes:
        raise DataError(f"{folder}: too long for a label; rename it")
    return label


def _draw(root: Path, classes: _Classes, config: DataConfig) -> tuple[_Classes, _Classes]:
    train: dict[str, tuple[Path, ...]] = {}
    test: dict[str, tuple[Path, ...]] = {}
    for label, paths in classes.items():
        if len(paths) < 2:  # noqa: PLR2004
            raise DataError(
                f"{root / label}: one image cannot be both learnt from and held out; add another"
            )
        names = [path.name for path in paths]
        held = held_out(names, label, fraction=config.test_fraction, seed=config.split_seed)
        train[label] = tuple(path for path in paths if path.name not in held)
        test[label] = tuple(path for path in paths if path.name in held)
    return train, test


def _require_same_classes(train: _Classes, test: _Classes, held: Path) -> None:
    for label in test:
        if label not in train:
            raise DataError(f"{held / label}: no such class in train/; add it there, or remove it")
    for label in train:
        if label not in test:
            raise DataError(f"{held}: no images of class '{label}'; add some, or remove {held}")
