"""What a backend is: something that runs a graph on an image batch and class tensors.

Owns the contract that the classifier, the parity check and every implementation share::

    outputs = backend.run(images, {"class_weight": weight, "class_bias": bias})
    outputs.logits       # float32 [batch, classes]

While it is traced, it also learns who executed what::

    with load_backend("onnxruntime").tracing(graph) as backend:
        backend.run(images, class_tensors)
    backend.execution.operators["CPUExecutionProvider"]["MatMul"]      # 48
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Backend",
    "BackendFactory",
    "Execution",
    "FloatArray",
    "ImageArray",
    "InputArray",
    "Outputs",
    "Runner",
    "TracedBackend",
]

FloatArray: TypeAlias = NDArray[np.float32]
ImageArray: TypeAlias = NDArray[np.float32] | NDArray[np.uint8]
InputArray: TypeAlias = NDArray[np.float32] | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one run of the graph gives.

    Attributes:
        logits: float32 ``[batch, classes]``.
        embedding: float32 ``[batch, width]``.
    """

    logits: FloatArray
    embedding: FloatArray


@dataclass(frozen=True, slots=True)
class Execution:
    """Who executed a graph; that a provider is registered alone proves nothing.

    Attributes:
        providers: What could have executed it, in the order of preference.
        operators: By provider, how many nodes it did execute of each operator.
    """

    providers: tuple[str, ...]
    operators: Mapping[str, Mapping[str, int]]


class Runner(Protocol):
    """Whatever runs a model on images and classes: a backend, or a graph of a package."""

    def run(self, image: ImageArray, class_tensors: Mapping[str, FloatArray]) -> Outputs:
        """Run it.

        Args:
            image: ``[batch, channels, height, width]``, float32 or uint8 as the graph takes it.
            class_tensors: One float32 array per class input, by name, in a dynamic graph's shape.

        Raises:
            BackendError: It does not take these inputs, or fails.
        """


class Backend(Protocol):
    """A loaded graph. Safe to call from several threads at once."""

    def run(self, image: ImageArray, class_tensors: Mapping[str, InputArray]) -> Outputs:
        """Run the graph.

        Args:
            image: ``[batch, channels, height, width]``, float32 or uint8 as the graph takes it.
            class_tensors: One float32 array per class input, by name, in the graph's shape; for a
                static graph also ``class_mask``, bool ``[capacity]``.

        Raises:
            BackendError: The graph does not take these inputs, or fails.
        """

    def describe(self) -> str:
        """Return one line that says what runs the graph, and where."""


class TracedBackend(Backend, Protocol):
    """A backend that was told to note who executes the nodes of its graph."""

    @property
    def execution(self) -> Execution:
        """Who executed what in the runs of the ``with`` block, which must have ended.

        Raises:
            BackendError: There is nothing to tell: the block has not ended, or nothing ran.
        """


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

    def tracing(
        self, graph: Path | bytes, /, *, threads: int | None = None
    ) -> AbstractContextManager[TracedBackend]:
        """Load a graph for a ``with`` block in which it is noted who executes it; it costs time.

        Raises:
            BackendUnavailableError: The library behind the backend is not installed.
            BackendError: The graph cannot be loaded.
        """
