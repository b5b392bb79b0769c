"""Backends by name; each lives in its own module and imports its library when it is loaded.

A new backend is one module and one row of the table::

    backend = load_backend("onnxruntime")(graph, threads=2)
"""

from importlib import import_module
from importlib.util import find_spec
from typing import cast

from pfm_edge_runtime._phrases import nearest
from pfm_edge_runtime.backends._base import (
    Backend,
    BackendFactory,
    Execution,
    FloatArray,
    ImageArray,
    InputArray,
    Outputs,
    Runner,
    TracedBackend,
)
from pfm_edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from pfm_edge_runtime.errors import BackendError

__all__ = [
    "Backend",
    "BackendFactory",
    "Execution",
    "FloatArray",
    "ImageArray",
    "InputArray",
    "OnnxRuntimeBackend",
    "Outputs",
    "Runner",
    "TracedBackend",
    "load_backend",
    "present_backends",
]

_BACKENDS = {"onnxruntime": ("pfm_edge_runtime.backends.onnxruntime", "OnnxRuntimeBackend")}
_LIBRARIES = {"onnxruntime": "onnxruntime"}


def load_backend(name: str) -> BackendFactory:
    """Return the backend of that name; its library is imported when it is called.

    Raises:
        BackendError: There is no backend of that name.
    """
    if name not in _BACKENDS:
        raise BackendError(
            f"no backend is named {name!r}{nearest(name, _BACKENDS)}: "
            f"there is {', '.join(sorted(_BACKENDS))}"
        )
    module, attribute = _BACKENDS[name]
    return cast("BackendFactory", getattr(import_module(module), attribute))


def present_backends() -> tuple[str, ...]:
    """Return the names of the backends whose library is installed; nothing is imported."""
    return tuple(name for name, library in _LIBRARIES.items() if find_spec(library) is not None)
