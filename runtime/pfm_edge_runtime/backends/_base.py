"""What a backend is: something that runs a graph on an image batch and class tensors.

Owns the contract that the classifier, the parity check and every implementation share::

    outputs = backend.run(images, {"class_weight": weight, "class_bias": bias})
    outputs.logits       # float32 [batch, classes]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "BackendFactory", "FloatArray", "Outputs"]

FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one run of the graph gives.

    Attributes:
        logits: float32 ``[batch, classes]``.
        embedding: float32 ``[batch, width]``.
    """

    logits: FloatArray
    embedding: FloatArray


class Backend(Protocol):
    """A loaded graph. Safe to call from several threads at once."""

    def run(self, image: FloatArray, class_tensors: Mapping[str, FloatArray]) -> Outputs:
        """Run the graph.

        Args:
            image: float32 ``[batch, channels, height, width]``.
            class_tensors: One float32 array per class input, by name, in the graph's shape.

        Raises:
            BackendError: The graph does not take these inputs, or fails.
        """

    def describe(self) -> str:
        """Return one line that says what runs the graph, and where."""


class BackendFactory(Protocol):
    """What :func:`pfm_edge_runtime.backends.load_backend` gives: the class of a backend."""

    def __call__(self, graph: Path | bytes, /, *, threads: int | None = None) -> Backend:
        """Load a graph.

        Args:
            graph: The graph's file, or its contents.
            threads: Threads for one run; ``None`` leaves that to the library.

        Raises:
            BackendUnavailableError: The library behind the backend is not installed.
            BackendError: The graph cannot be loaded.
        """
