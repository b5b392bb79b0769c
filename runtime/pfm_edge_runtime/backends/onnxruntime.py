"""ONNX Runtime as a backend.

Owns the session, the binding of arrays by name and the translation of ONNX Runtime's exceptions;
what its profile says of who executed what is read by ``_onnxruntime_profile``::

    backend = OnnxRuntimeBackend(Path("model/backbone.onnx"), threads=2)
    backend.describe()               # "ONNX Runtime 1.23.2, CPUExecutionProvider"
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np

from pfm_edge_runtime.backends._base import Execution, ImageArray, InputArray, Outputs
from pfm_edge_runtime.backends._onnxruntime_profile import operators_by_provider
from pfm_edge_runtime.errors import BackendError, BackendUnavailableError

__all__ = ["OnnxRuntimeBackend"]

_OUTPUTS = ("logits", "embedding")
_PROVIDERS = ("CPUExecutionProvider",)
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}
_ERRORS_ONLY = 3  # ONNX Runtime's log severity; its warnings are about our graph, not the user's
_FATAL_ONLY = 4  # what it raises is told by us, and where it cannot load it regrets a lost profile


class OnnxRuntimeBackend:
    """A graph in ONNX Runtime, on the CPU.

    Args:
        graph: The ``.onnx`` file, or its contents.
        threads: Threads for one run; ``None`` takes one per physical core.
        profile: How the path of ONNX Runtime's profile begins, for :meth:`tracing` alone.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        BackendError: ONNX Runtime cannot load the graph.
    """

    def __init__(
        self, graph: Path | bytes, *, threads: int | None = None, profile: Path | None = None
    ) -> None:
        library = _import_library()
        self._errors = _library_errors(library)
        with self._translated("cannot load the graph"):
            options = library.SessionOptions()
            options.log_severity_level = _ERRORS_ONLY
            if threads is not None:
                options.intra_op_num_threads = threads
            if profile is not None:
                options.log_severity_level = _FATAL_ONLY
                options.enable_profiling = True
                options.profile_file_prefix = str(profile)
            self._session: Any = library.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph),
                sess_options=options,
                providers=list(_PROVIDERS),
                enable_fallback=0,  # it would print to standard output and try again
            )
        self._inputs = {each.name: _dtype(each) for each in self._session.get_inputs()}
        missing = set(_OUTPUTS) - {each.name for each in self._session.get_outputs()}
        if missing:
            raise BackendError(f"the graph has no output {' or '.join(sorted(missing))}")
        self._description = f"ONNX Runtime {library.__version__}, {_PROVIDERS[0]}"
        self._execution: Execution | None = None

    @classmethod
    @contextmanager
    def tracing(
        cls, graph: Path | bytes, *, threads: int | None = None
    ) -> Iterator["OnnxRuntimeBackend"]:
        """Load a graph for a ``with`` block; :attr:`execution` tells afterwards who executed it.

        Raises:
            BackendUnavailableError: ONNX Runtime is not installed.
            BackendError: ONNX Runtime cannot load the graph, or write its profile.
        """
        with _scratch() as folder:
            backend = cls(graph, threads=threads, profile=folder / "profile")
            try:
                yield backend
            finally:
                with backend._translated("cannot write its profile"):
                    profile = Path(backend._session.end_profiling())
            providers = tuple(backend._session.get_providers())
            backend._execution = Execution(providers, operators_by_provider(profile))

    def run(self, image: ImageArray, class_tensors: Mapping[str, InputArray]) -> Outputs:
        """Run the graph; the one input that no class tensor names takes the image.

        Args:
            image: ``[batch, channels, height, width]``, float32 or uint8 as the graph takes it.
            class_tensors: One float32 array per class input, by name, in the graph's shape; for a
                static graph also ``class_mask``, bool ``[capacity]``.

        Raises:
            BackendError: The graph does not take these inputs, or fails.
        """
        feeds = {self._image_name(class_tensors): image, **class_tensors}
        for name, array in feeds.items():
            if array.dtype != self._inputs[name]:
                raise BackendError(
                    f"input {name} is {array.dtype}: the graph takes {self._inputs[name]}"
                )
        with self._translated("the graph failed"):
            logits, embedding = self._session.run(list(_OUTPUTS), feeds)
        for name, array in zip(_OUTPUTS, (logits, embedding), strict=True):
            _require_matrix(name, array, len(image))
        return Outputs(logits, embedding)

    def describe(self) -> str:
        """Return one line that says what runs the graph, and where."""
        return self._description

    @property
    def execution(self) -> Execution:
        """Who executed the graph in the ``with`` block of :meth:`tracing`, which has ended.

        Raises:
            BackendError: There was no such block, it has not ended, or nothing ran in it.
        """
        if self._execution is None or not self._execution.operators:
            raise BackendError("nothing was traced: run the graph in a tracing() block first")
        return self._execution

    def _image_name(self, class_tensors: Mapping[str, InputArray]) -> str:
        unknown = sorted(class_tensors.keys() - self._inputs.keys())
        if unknown:
            raise BackendError(f"the graph has no input {', '.join(unknown)}")
        free: list[str] = sorted(self._inputs.keys() - class_tensors.keys())
        if len(free) != 1:
            raise BackendError(f"one input must remain for the image, not {len(free)}: {free}")
        return free[0]

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            reason = " ".join(str(error).split())
            raise BackendError(f"ONNX Runtime {what}: {reason}") from error


def _dtype(value: Any) -> np.dtype[Any]:
    """Return what NumPy calls the type of a graph's input.

    Raises:
        BackendError: No package has inputs of that type.
    """
    if value.type not in _TYPES:
        raise BackendError(f"input {value.name} of the graph is {value.type}, which nothing feeds")
    return np.dtype(_TYPES[value.type])


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a directory for as long as it is needed.

    Raises:
        BackendError: There is no room for one.
    """
    try:
        folder = TemporaryDirectory(prefix="pfm-edge-")
    except OSError as error:
        raise BackendError(f"no temporary directory can be made: {error.strerror}") from error
    with folder as name:
        yield Path(name)


def _require_matrix(name: str, output: object, rows: int) -> None:
    if not isinstance(output, np.ndarray) or output.dtype != np.float32 or output.ndim != 2:  # noqa: PLR2004
        raise BackendError(f"the graph gave {name} in another form than float32 [batch, n]")
    if len(output) != rows:
        raise BackendError(f"the graph gave {len(output)} rows of {name} for {rows} images")


def _import_library() -> ModuleType:
    try:
        import onnxruntime  # heavy, and optional
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not installed: pip install 'pfm-edge-runtime[onnxruntime]'"
        ) from error
    found: ModuleType = onnxruntime
    return found


def _library_errors(library: ModuleType) -> tuple[type[Exception], ...]:
    """Return everything that ONNX Runtime raises: its exceptions share no base but Exception."""
    state = library.capi.onnxruntime_pybind11_state
    own = (each for each in vars(state).values() if isinstance(each, type))
    return (
        *(each for each in own if issubclass(each, Exception)),
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    )
