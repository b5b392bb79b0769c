"""Backends by name; each lives in its own module and imports its library when it is loaded.

A new backend is one module and one row of the table::

    backend = load_backend("onnxruntime")(graph, threads=2)
"""

from importlib import import_module
from typing import cast

from pfm_edge_runtime._nearest import nearest
from pfm_edge_runtime.backends._base import (
    Backend,
    BackendFactory,
    Execution,
    FloatArray,
    ImageArray,
    InputArray,
    Outputs,
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
    "TracedBackend",
    "load_backend",
]

_BACKENDS = {"onnxruntime": ("pfm_edge_runtime.backends.onnxruntime", "OnnxRuntimeBackend")}


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
