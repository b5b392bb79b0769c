"""Images with their labels: kept ready where they are few, decoded on demand where they are many.

Owns what a trainer sees of a data set; where it came from makes no difference to it::

    split.images(torch.arange(32))     # float32 [32, c, h, w]
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pfm_edge.errors import DataError
from pfm_edge_runtime.images import ImageSource
from pfm_edge_runtime.manifest import Mode
from pfm_edge_runtime.preprocessing import Preprocessor

__all__ = ["ClassificationData", "Progress", "Split"]

Progress = Callable[[int, int], None]
"""Told after every image that loading has dealt with: how many are done, of how many."""


class Split:
    """One part of a data set: sources of images, and the class index of each.

    Args:
        sources: What :func:`pfm_edge_runtime.images.load_image` takes, one an image.
        labels: Class indices, as many.
        preprocessor: Makes the image input of a source.
        workers: Threads that decode a batch; 0 decodes it in the caller's.
    """

    def __init__(
        self,
        sources: Sequence[ImageSource],
        labels: Sequence[int],
        preprocessor: Preprocessor,
        *,
        workers: int = 0,
    ) -> None:
        self._sources = sources
        self._labels = torch.tensor(labels, dtype=torch.int64)
        self._preprocessor = preprocessor
        # Threads suffice: Pillow decodes and resizes without the interpreter's lock.
        self._pool = ThreadPoolExecutor(workers, "pfm-edge-decode") if workers else None
        self._ready: Tensor | None = None

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [n]."""
        return self._labels

    def source(self, index: int) -> ImageSource:
        """Return image ``index`` as it was before preprocessing, for ``load_image``."""
        return self._sources[index]

    def images(self, indices: Tensor) -> Tensor:
        """Return the images of ``indices``, int64 [b], in their order.

        Returns:
            [b, c, h, w], float32 or uint8 as the preprocessor makes them.

        Raises:
            ImageError: An image file has gone or is damaged; names it.
        """
        if self._ready is not None:
            return self._ready[indices]
        wanted = [self._sources[index] for index in indices.tolist()]
        if self._pool is None:
            return torch.from_numpy(self._preprocessor.batch(wanted))
        made = [*self._pool.map(self._preprocessor, wanted)]
        return torch.from_numpy(np.stack(made) if made else self._preprocessor.batch([]))

    def only(self, classes: Sequence[int]) -> "Split":
        """Return the images of these classes alone, renumbered: ``classes[i]`` becomes ``i``."""
        number = {each: index for index, each in enumerate(classes)}
        rows = [row for row, label in enumerate(self._labels.tolist()) if label in number]
        kept = copy(self)
        kept._sources = [self._sources[row] for row in rows]
        kept._labels = torch.tensor(
            [number[int(self._labels[row])] for row in rows], dtype=torch.int64
        )
        kept._ready = None if self._ready is None else self._ready[rows]
        return kept

    @property
    def nbytes(self) -> int:
        """Bytes of all images, preprocessed."""
        return len(self) * int(np.prod(self._preprocessor.shape)) * np.dtype(np.float32).itemsize

    def keep_ready(self) -> None:
        """Preprocess every image now, so that :meth:`images` only picks."""
        self._ready = self.images(torch.arange(len(self)))


@dataclass(frozen=True, slots=True)
class ClassificationData:
    """A data set with its held-out part.

    Attributes:
        train: What is learnt from.
        test: What is held out; every class has images in both.
        labels: What a person calls the classes, in normal form C, by class index.
        mode: Pillow's mode of an image once it is loaded.
    """

    train: Split
    test: Split
    labels: tuple[str, ...]
    mode: Mode

    def only(self, labels: Sequence[str]) -> "ClassificationData":
        """Return the data of these classes alone, in this order: what a run still knows.

        Raises:
            DataError: There is no class of one of these labels.
        """
        if tuple(labels) == self.labels:
            return self
        if not set(labels) <= set(self.labels):
            raise DataError("the data lacks a class of the run: put its images back")
        classes = [self.labels.index(label) for label in labels]
        return ClassificationData(
            self.train.only(classes), self.test.only(classes), tuple(labels), self.mode
        )
