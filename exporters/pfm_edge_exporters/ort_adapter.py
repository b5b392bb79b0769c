"""Class tensors to an ``.onnx_adapter``, ONNX Runtime's container for named inputs.

Owns the container, through ONNX Runtime's own writer and reader. An adapter holds arrays and two
numbers; it has no labels, no digest and no signature, and it does not reach IO binding::

    write_adapter(path, tensors, adapter_version=3, model_version=17)
    session.run(None, {"image": images}, run_options)       # with the adapter active
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.errors import PackageError

__all__ = ["Adapter", "model_version", "read_adapter", "require_adapters", "write_adapter"]

Adapter = tuple[dict[str, NDArray[np.float32]], int, int]
"""Arrays by name, the adapter's version and the model's version."""

_MOST = 160  # characters of a complaint; the C++ function's signature comes before the reason
_INSTALL = "pip install 'onnxruntime>=1.20'"


def write_adapter(
    path: Path,
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    adapter_version: int,
    model_version: int,
) -> None:
    """Write an adapter, and read it back: the library does not say whether the disk was full.

    Args:
        path: The file; it must not be one that is in use.
        tensors: float32, by the name of the graph's input.
        adapter_version: Which bundle this is; 31 bits.
        model_version: Which model it is for; 31 bits.

    Raises:
        ExportError: ONNX Runtime knows no adapters, or what was written is not what was given.
    """
    library = require_adapters()
    with _translated(path, ExportError):
        adapter: Any = library.AdapterFormat()
        adapter.set_adapter_version(adapter_version)
        adapter.set_model_version(model_version)
        adapter.set_parameters(
            {name: library.OrtValue.ortvalue_from_numpy(each) for name, each in tensors.items()}
        )
        adapter.export_adapter(str(path))
        found, *numbers = _read(library, path)
    same = found.keys() == tensors.keys() and all(
        np.array_equal(found[name], each) for name, each in tensors.items()
    )
    if not same or numbers != [adapter_version, model_version]:
        raise ExportError(f"{path} does not hold what was written to it: is the disk full?")


def read_adapter(path: Path) -> Adapter:
    """Read an adapter.

    Raises:
        ExportError: ONNX Runtime knows no adapters.
        PackageError: The file is missing or damaged.
    """
    library = require_adapters()
    with _translated(path, PackageError):
        return _read(library, path)


def model_version(model_id: str) -> int:
    """Return the first 31 bits of a model's id, which is all that an adapter has room for."""
    return int(model_id.removeprefix("sha256:")[:8], 16) >> 1


def require_adapters() -> ModuleType:
    """Import ONNX Runtime.

    Raises:
        ExportError: It is not installed, or knows no adapters.
    """
    try:
        import onnxruntime  # noqa: PLC0415 (heavy, and optional)
    except ImportError as error:
        raise ExportError(f"ONNX Runtime is not installed: {_INSTALL}") from error
    if not hasattr(onnxruntime, "AdapterFormat"):
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} knows no adapters: {_INSTALL}")
    found: ModuleType = onnxruntime
    return found


def _read(library: ModuleType, path: Path) -> Adapter:
    adapter: Any = library.AdapterFormat.read_adapter(str(path))
    # Copies: the arrays of the library lie in the file that it has mapped.
    tensors = {name: np.array(each.numpy()) for name, each in adapter.get_parameters().items()}
    return tensors, adapter.get_adapter_version(), adapter.get_model_version()


@contextmanager
def _translated(path: Path, error_type: type[ExportError] | type[PackageError]) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise error_type(f"{path}: ONNX Runtime refuses it: {said[-_MOST:]}") from error
