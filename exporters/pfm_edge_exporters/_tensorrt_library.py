"""The two TensorRT libraries as Python sees them: found or not, too old, and what they complain of.

Owns the import and the words; it builds nothing::

    module = load_tensorrt("tensorrt_rtx")          # or one line with the command that installs it
    logger = make_logger(module)
    explain(logger)                                 # the last thing that went wrong, in one line

``tensorrt`` and ``tensorrt_rtx`` are imported nowhere else.
"""

import re
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from pfm_edge_exporters._build_progress import BuildMonitor
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime._phrases import nearest

__all__ = [
    "capability",
    "explain",
    "let_attention_decompose",
    "load_tensorrt",
    "make_logger",
    "make_monitor",
    "member",
    "name_of",
    "parser_errors",
]

_SOURCE = re.compile(r"^IBuilder::\w+: |\.? In \S+ at /\S+")  # where in the library it was raised
_MOST = 300  # characters of a library's complaint; a stack of C++ frames follows


@dataclass(frozen=True, slots=True)
class _Library:
    """What is known of a library: its name, the releases we can use, how to get one."""

    title: str
    least: tuple[int, int]
    below: int
    install: str


_LIBRARIES = {
    "tensorrt": _Library(
        "TensorRT",
        (10, 3),  # JetPack 6.1
        12,
        "pip install 'pfm-edge-exporters[tensorrt]'; a Jetson has it already, for a virtual "
        "environment made with --system-site-packages",
    ),
    "tensorrt_rtx": _Library(
        "TensorRT for RTX",
        (1, 7),  # the oldest that the tests build with
        2,
        "pip install 'pfm-edge-exporters[tensorrt-rtx]'",
    ),
}

# What the libraries say, and what a person can do about it.
_ADVICE = (
    ("no CUDA-capable device", "this machine has no GPU that it can use"),
    ("CUDA driver version is insufficient", "this machine has no GPU that it can use"),
    ("cudaError", "this machine has no GPU that it can use"),
    ("workspace limit", "raise the workspace limit"),
    ("libnvinfer_lean", "this library cannot build version-compatible engines"),
)


def load_tensorrt(name: str) -> ModuleType:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        ExportError: It is not installed, cannot be loaded, or is of a release that we cannot use;
            the message has the command that installs one.
    """
    library = _LIBRARIES[name]
    wanted = f"{library.least[0]}.{library.least[1]} or newer, below {library.below}"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ExportError(
                f"{library.title} is incomplete: {error}; {library.install}"
            ) from error
        raise ExportError(f"{library.title} is not installed: {library.install}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise ExportError(
            f"{library.title} cannot be loaded: {_one_line(str(error))}; {library.install}"
        ) from error
    version = str(getattr(module, "__version__", ""))
    if not library.least <= _numbers(version) < (library.below, 0):
        raise ExportError(
            f"{library.title} is {version or 'of an unknown version'}, not {wanted}: "
            f"{library.install}"
        )
    return module


def name_of(module: ModuleType) -> str:
    """Return name and version of a library."""
    return f"{module.__name__} {module.__version__}"


def member(module: ModuleType, enumeration: str, name: str) -> Any:
    """Return a member of an enumeration; releases differ in both.

    Raises:
        ExportError: This release has none of that name; the message has the nearest.
    """
    known = dict(getattr(getattr(module, enumeration, None), "__members__", {}))
    if name not in known:
        raise ExportError(f"{name_of(module)} has no {enumeration}.{name}{nearest(name, known)}")
    return known[name]


def capability(module: ModuleType, wanted: str) -> Any:
    """Return the library's value for a compute capability, as ``"8.6"``.

    Raises:
        ExportError: The library does not build for it, or cannot choose at all.
    """
    known = dict(getattr(getattr(module, "ComputeCapability", None), "__members__", {}))
    if not known:
        raise ExportError(
            f"{name_of(module)} builds for the GPU in the machine: name no compute capability"
        )
    name = "SM" + wanted.replace(".", "")
    if name not in known:
        numbers = [f"{each[2:-1]}.{each[-1]}" for each in known if each[2:].isdigit()]
        raise ExportError(
            f"{name_of(module)} does not build for compute capability {wanted}: "
            f"it builds for {', '.join(numbers)}"
        )
    return known[name]


def make_logger(module: ModuleType) -> Any:
    """Return a logger that keeps errors, in ``errors``, and prints nothing."""
    base: Any = module.ILogger

    class _Logger(base):  # type: ignore[misc] # (the library's own class, known at run time)
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in {base.ERROR, base.INTERNAL_ERROR}:
                self.errors.append(message)

    return _Logger()


def make_monitor(module: ModuleType, watch: BuildMonitor) -> Any:
    """Return the library's progress monitor, which tells ``watch``."""
    base: Any = module.IProgressMonitor

    class _Monitor(base):  # type: ignore[misc] # (the library's own class, known at run time)
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.phase_start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step_complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            watch.phase_finish(phase_name)

    return _Monitor()


def let_attention_decompose(module: ModuleType, network: Any) -> None:
    """Let every fused attention fall back to its parts where the library has no kernel for it.

    Opset 23's ``Attention`` becomes one layer, and a build fails without this for the sizes and
    types that no fused kernel serves, float32 among them.
    """
    fused = getattr(getattr(module, "LayerType", None), "ATTENTION_INPUT", None)
    if fused is None:  # TensorRT before 10.14
        return
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == fused:
            # What the bindings themselves ask for: a network gives its layers by their base class.
            layer.__class__ = module.IAttentionInputLayer
            layer.attention.decomposable = True


def parser_errors(parser: Any) -> str:
    """Return what the ONNX parser complains of first, with the node."""
    if not parser.num_errors:
        return "it gives no reason"
    error = parser.get_error(0)
    node = f"{error.node_operator()} {error.node_name()}".strip()
    return f"{f'{node}: ' if node else ''}{_one_line(error.desc())}"


def explain(logger: Any, *, default: str = "it gives no reason") -> str:
    """Return the last error that a logger kept, in one line, with what can be done about it."""
    said = logger.errors[-1] if logger.errors else default
    advice = next((then for words, then in _ADVICE if words in said), None)
    return _one_line(said) if advice is None else f"{advice} ({_one_line(said)})"


def _one_line(text: str) -> str:
    line = _SOURCE.sub("", " ".join(text.split()))
    return line if len(line) <= _MOST else f"{line[: _MOST - 1]}…"


def _numbers(version: str) -> tuple[int, int]:
    parts = [int(each) if each.isdigit() else -1 for each in version.split(".")[:2]]
    return (parts[0], parts[1]) if len(parts) == 2 else (-1, -1)  # noqa: PLR2004
