"""Class tensors on their way out of a bundle: in the graph's shape, and labels beside them.

Owns the layout that ``triton`` and ``ort-adapter`` share::

    tensors = graph_tensors(package)              # {"prompt_keys": float32 [12, 6, C, 64], …}
    fewer = without_rows(tensors["prompt_keys"], axis=2, rows=[3])
"""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pfm_edge_runtime.artefacts import is_version
from pfm_edge_runtime.errors import ConfigError, PackageError
from pfm_edge_runtime.package import ModelPackage

__all__ = [
    "LABELS_FILE",
    "class_axes",
    "copy_others",
    "graph_tensors",
    "labels_text",
    "labels_without",
    "without_rows",
]

LABELS_FILE = "labels.txt"


def graph_tensors(package: ModelPackage) -> dict[str, NDArray[np.float32]]:
    """Return the class tensors of a package's bundle in the graph's shape, by name.

    Raises:
        ConfigError: Every class of it was forgotten.
    """
    if not len(package.bundle):
        raise ConfigError(
            f"{package.directory}: its bundle holds no class, so there is nothing in it"
        )
    tensors = package.bundle.tensors
    return {
        each.name: np.array(np.moveaxis(tensors[each.name], 0, each.class_axis), order="C")
        for each in package.manifest.class_inputs
    }


def class_axes(package: ModelPackage) -> dict[str, int]:
    """Return where the class axis of each class tensor is, by name."""
    return {each.name: each.class_axis for each in package.manifest.class_inputs}


def labels_text(package: ModelPackage) -> bytes:
    """Return the labels, one a line; line i is class i. A label holds no line end."""
    return "".join(f"{each}\n" for each in package.bundle.labels).encode()


def labels_without(path: Path, rows: Sequence[int], classes: int) -> bytes:
    """Return the labels of a file but for some lines.

    Raises:
        PackageError: It cannot be read, or has not one line for each class.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(lines) != classes:
        raise PackageError(
            f"{path} has {len(lines)} labels for {classes} classes: remove {path.parent}, and "
            "export it again"
        )
    return b"".join(line + b"\n" for row, line in enumerate(lines) if row not in rows)


def copy_others(directory: Path, staging: Path, classes: Collection[str]) -> None:
    """Copy what holds no class: the graph, and configuration, which may be somebody's own.

    Args:
        directory: The artefact.
        staging: Where to.
        classes: Names of the files that hold classes. Directories named by a number do, too: they
            are other versions of the model, and nobody knows which classes are in them.
    """
    for each in sorted(directory.iterdir()):
        if each.name in classes or is_version(each.name):
            continue
        if each.is_dir():
            shutil.copytree(each, staging / each.name)
        else:
            shutil.copy2(each, staging / each.name)


def without_rows(
    tensor: NDArray[np.float32], *, axis: int, rows: Sequence[int], classes: int
) -> NDArray[np.float32]:
    """Return a class tensor without some classes.

    Args:
        tensor: float32, with ``classes`` entries along ``axis``.
        axis: The class axis.
        rows: Which go.
        classes: How many there are.

    Raises:
        PackageError: The tensor has another number of them.
    """
    if axis >= tensor.ndim or tensor.shape[axis] != classes:
        raise PackageError(
            f"a class tensor of shape {list(tensor.shape)} has not {classes} classes on axis {axis}"
        )
    return np.ascontiguousarray(np.delete(tensor, list(rows), axis=axis))
