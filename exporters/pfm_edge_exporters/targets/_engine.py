"""What ``tensorrt`` and ``tensorrt-rtx`` share: a graph of the package in, an engine file out.

Owns the options that both take, and the one file that they make. An engine holds no class: one
engine serves every bundle of the model, before and after a forget::

    model/tensorrt-rtx/backbone.fp16/backbone.fp16.plan
    model/tensorrt-rtx/backbone.fp16/target.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pfm_edge_exporters.errors import ExportError
from pfm_edge_exporters.targets._options import (
    option,
    size_range,
    size_ranges,
    text,
    whole,
)
from pfm_edge_exporters.targets._target import Draft, Job, Target, find_variant
from pfm_edge_exporters.tensorrt_from_onnx import (
    Engine,
    Profile,
    Range,
    TensorRtFromOnnx,
    load_tensorrt,
)

__all__ = ["EngineOptions", "EngineTarget"]

_SUFFIX = ".onnx"
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What both libraries take."""

    variant: str | None = option(
        None, parse=text, kind="FILE", help="The package's graph to build; the first by default."
    )
    batch: Range = option(  # noqa: RUF009 (a field)
        Range(1, 1, 8), parse=size_range, kind="MIN:OPT:MAX", help="Numbers of images."
    )
    classes: tuple[Range, ...] = option(
        (Range(1, 16, 128),),
        parse=size_ranges,
        kind="MIN:OPT:MAX[,…]",
        help="Numbers of classes; one optimisation profile for each range.",
    )
    workspace_mib: int | None = option(
        None, parse=whole(1, 2**20), kind="MIB", help="Most memory for one kernel's scratch."
    )

    def settings(self) -> dict[str, Any]:
        """Return what the builder is made with."""
        limit = self.workspace_mib
        return {
            "profiles": tuple(Profile(self.batch, each) for each in self.classes),
            "workspace_bytes": None if limit is None else limit * _MIB,
        }


class EngineTarget(Target):
    """An engine by one of the two libraries.

    Attributes:
        module: What the library is imported as.
    """

    module: ClassVar[str]
    options: ClassVar[type] = EngineOptions

    def default_out(self, package: Path, options: EngineOptions) -> Path:
        """Return a folder in the package, of the target and the graph."""
        graph = "backbone" if options.variant is None else options.variant.removesuffix(_SUFFIX)
        return package / self.name / graph

    def check(self) -> None:
        """Refuse, before any work, a library that is missing or cannot be used."""
        load_tensorrt(self.module)

    def make(self, job: Job) -> Draft:
        """Build the engine."""
        variant = find_variant(job.package, job.options.variant)
        builder = TensorRtFromOnnx(load_tensorrt(self.module), **job.options.settings())
        graph = job.package.files.read_graph(variant)
        try:
            engine = self._build(builder, graph, job)
        except ExportError as error:
            if variant.precision != "int8":
                raise
            raise ExportError(
                f"{error}; {variant.file} is for CPUs: name another, -O variant=backbone.onnx"
            ) from error
        name = variant.file.removesuffix(_SUFFIX) + ".plan"

        def fill(directory: Path) -> None:
            (directory / name).write_bytes(engine.plan)

        library, _, version = engine.library.partition(" ")
        return Draft(fill, variant, {library: version}, {"layers": engine.layers})

    def _build(self, builder: TensorRtFromOnnx, graph: bytes, job: Job) -> Engine:
        return builder.export(graph, progress=job.progress)
