"""From a configuration to a data set: read, check, split, preprocess.

Owns the choice between the sources and what is checked before training starts::

    data = load_data(config.data, preprocessor, progress=lambda done, total: ...)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pfm_edge.config import DataConfig
from pfm_edge.data._folder import scan_folder
from pfm_edge.data._holdout import held_out
from pfm_edge.data._packaged import PACKAGED
from pfm_edge.data._split import ClassificationData, Progress, Split
from pfm_edge.errors import DataError
from pfm_edge_runtime.errors import ImageError
from pfm_edge_runtime.images import image_size
from pfm_edge_runtime.preprocessing import Preprocessor

__all__ = ["load_data"]

_MAX_READY_BYTES = 1 << 28  # of one split kept preprocessed; 5,000 RGB images of 66 x 66


def load_data(
    config: DataConfig, preprocessor: Preprocessor, progress: Progress | None = None
) -> ClassificationData:
    """Load a data set, split.

    Args:
        config: Which one.
        preprocessor: Makes the model's image input.
        progress: Told how many images of an ``imagefolder`` are checked, of how many.

    Raises:
        DataError: The package or folder is missing, the folder is empty or of an impossible
            layout, or a file in it is no image: one line that names it.
    """
    if config.name == "imagefolder":
        return _from_folder(config, preprocessor, progress)
    return _from_package(config, preprocessor)


def _from_package(config: DataConfig, preprocessor: Preprocessor) -> ClassificationData:
    images, targets = PACKAGED[config.name]()
    labels = tuple(str(digit) for digit in np.unique(targets))
    held = _held_rows(targets, labels, config)

    def split(rows: NDArray[np.intp]) -> Split:
        made = Split([*images[rows]], targets[rows].tolist(), preprocessor)
        if made.nbytes <= _MAX_READY_BYTES:
            made.keep_ready()
        return made

    return ClassificationData(
        train=split(np.flatnonzero(~held)),
        test=split(np.flatnonzero(held)),
        labels=labels,
        mode=preprocessor.mode,
    )


def _held_rows(
    targets: NDArray[np.int64], labels: Sequence[str], config: DataConfig
) -> NDArray[np.bool_]:
    """Return which rows are held out, bool [n]; a row's name is its number."""
    held = np.zeros(len(targets), np.bool_)
    for index, label in enumerate(labels):
        names = [str(row) for row in np.flatnonzero(targets == index)]
        drawn = held_out(names, label, fraction=config.test_fraction, seed=config.split_seed)
        held[[int(name) for name in drawn]] = True
    return held


def _from_folder(
    config: DataConfig, preprocessor: Preprocessor, progress: Progress | None
) -> ClassificationData:
    if config.root is None:
        raise DataError("imagefolder needs data.root, the folder that holds its classes")
    found = scan_folder(config.root, config)
    _require_images([path for path, _ in (*found.train, *found.test)], config.workers, progress)

    def split(rows: Sequence[tuple[Path, int]]) -> Split:
        paths, indices = [path for path, _ in rows], [index for _, index in rows]
        return Split(paths, indices, preprocessor, workers=config.workers)

    return ClassificationData(
        train=split(found.train),
        test=split(found.test),
        labels=found.labels,
        mode=preprocessor.mode,
    )


def _require_images(paths: Sequence[Path], workers: int, progress: Progress | None) -> None:
    """Read every header, so that a file that is no image stops the run before it starts."""
    problems: list[str] = []
    for done, problem in enumerate(_mapped(_problem_of, paths, workers), start=1):
        if problem:
            problems.append(problem)
        if progress is not None:
            progress(done, len(paths))
    if problems:
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}; replace or remove it{more}")


def _problem_of(path: Path) -> str:
    try:
        image_size(path)
    except ImageError as error:
        return str(error)
    return ""


def _mapped(function: Callable[[Path], str], paths: Iterable[Path], workers: int) -> Iterator[str]:
    if not workers:
        yield from map(function, paths)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(function, paths)
