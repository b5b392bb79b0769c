"""Target ``tensorrt``: an engine for the GPU in this machine, a Jetson's included.

Owns its options and the timing cache, a file that makes the next build of a similar graph shorter;
it belongs to one release and one kind of GPU, and the library refuses another's::

    pfm-edge export model --target tensorrt -O timing-cache=orin.cache -O workspace-mib=2048
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pfm_edge_exporters.errors import ExportError
from pfm_edge_exporters.targets._engine import EngineOptions, EngineTarget
from pfm_edge_exporters.targets._options import choice, flag, option, whole
from pfm_edge_exporters.targets._target import Job
from pfm_edge_exporters.tensorrt_from_onnx import Engine, TensorRtFromOnnx
from pfm_edge_runtime.store import write_atomic

__all__ = ["TensorRt", "TensorRtOptions"]


def _path(value: str) -> Path:
    if not value:
        raise ValueError("empty")
    return Path(value)


@dataclass(frozen=True, slots=True)
class TensorRtOptions(EngineOptions):
    """What TensorRT takes."""

    level: int | None = option(
        None, parse=whole(0, 5), kind="0 to 5", help="Builder level; 3 by default, 5 takes hours."
    )
    timing_cache: Path | None = option(  # noqa: RUF009 (a field)
        None, parse=_path, kind="FILE", help="Timing cache to use and to add to; made if missing."
    )
    hardware_compatibility: str = option(
        "none",
        parse=choice("none", "ampere_plus", "same_compute_capability"),
        kind="none, ampere_plus or same_compute_capability",
        help="Other GPUs that may run the engine; not on a Jetson.",
    )
    version_compatible: bool = option(
        False, parse=flag, kind="yes or no", help="Whether later releases may run the engine."
    )

    def settings(self) -> dict[str, Any]:
        """Return what the builder is made with."""
        others = self.hardware_compatibility
        return {
            **EngineOptions.settings(self),
            "level": self.level,
            "hardware_compatibility": None if others == "none" else others,
            "version_compatible": self.version_compatible,
        }


class TensorRt(EngineTarget):
    """The target."""

    name: ClassVar[str] = "tensorrt"
    summary: ClassVar[str] = "an engine for the GPU in this machine"
    module: ClassVar[str] = "tensorrt"
    options: ClassVar[type] = TensorRtOptions

    def _build(self, builder: TensorRtFromOnnx, graph: bytes, job: Job) -> Engine:
        path: Path | None = job.options.timing_cache
        if path is None:
            return builder.export(graph, progress=job.progress)
        try:
            before = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
        engine = builder.export(graph, timing_cache=before, progress=job.progress)
        if engine.timing_cache:
            write_atomic(path, engine.timing_cache)
        return engine
