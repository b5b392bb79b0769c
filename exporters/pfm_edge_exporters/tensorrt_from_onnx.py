"""An ONNX graph to an engine, with TensorRT or with TensorRT for RTX: one builder for both.

Owns the native build: network, parser, profiles, settings, progress, and what went wrong in one
line. The module is a parameter, because both libraries have one API::

    builder = TensorRtFromOnnx(
        load_tensorrt("tensorrt_rtx"),
        profiles=(Profile(batch=Range(1, 1, 8), classes=Range(1, 16, 128)),),
        compute_capabilities=("8.6",),
    )
    engine = builder.export(Path("model/backbone.onnx").read_bytes())
    engine.plan                              # bytes, for that library's runtime

The network is strongly typed: precision is what the graph says, and nothing here changes it. The
builder of TensorRT for RTX needs no GPU once a compute capability is named; TensorRT builds for the
GPU that is in the machine.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pfm_edge_exporters._build_progress import BuildMonitor, BuildProgress
from pfm_edge_exporters._tensorrt_library import (
    capability,
    explain,
    let_attention_decompose,
    load_tensorrt,
    make_logger,
    make_monitor,
    member,
    name_of,
    parser_errors,
)
from pfm_edge_exporters.errors import ExportError

__all__ = ["Engine", "Profile", "Range", "TensorRtFromOnnx", "load_tensorrt"]

_BATCH, _CLASSES = "batch", "classes"  # what the graph calls its symbolic axes
_MOST = 2**31 - 1  # of a size: beyond it the bindings answer with a list of their signatures


@dataclass(frozen=True, slots=True)
class Range:
    """Sizes that an axis may have, and the one that kernels are chosen for.

    Raises:
        ExportError: They do not ascend from 1, or are no sizes that the libraries know.
    """

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most <= _MOST:
            raise ExportError(
                f"the range {self} must ascend, from 1 to {_MOST} at most: 1:16:128, say"
            )

    def __str__(self) -> str:
        return f"{self.least}:{self.best}:{self.most}"


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes that one optimisation profile serves; an axis of fixed size ignores its range.

    Attributes:
        batch: Numbers of images.
        classes: Numbers of classes.
    """

    batch: Range = Range(1, 1, 8)
    classes: Range = Range(1, 16, 128)

    def sizes(self, axes: Sequence[str | int]) -> tuple[tuple[int, ...], ...]:
        """Return least, best and most sizes of an input with these axes.

        Args:
            axes: A size, or the name of a symbolic axis.

        Raises:
            ExportError: A name is not one of ours.
        """
        ranges = {_BATCH: self.batch, _CLASSES: self.classes}
        unknown = [each for each in axes if isinstance(each, str) and each not in ranges]
        if unknown:
            raise ExportError(
                f"the graph has a symbolic axis {unknown[0]!r}: only {_BATCH} and {_CLASSES} may be"
            )
        return tuple(
            tuple(getattr(ranges[each], bound) if isinstance(each, str) else each for each in axes)
            for bound in ("least", "best", "most")
        )


@dataclass(frozen=True, slots=True)
class Engine:
    """A built engine.

    Attributes:
        plan: The engine, serialised.
        layers: Layers of the network that the parser made of the graph.
        library: Name and version of what built it.
        timing_cache: The timing cache after the build; ``None`` where none was given.
    """

    plan: bytes = field(repr=False)
    layers: int
    library: str
    timing_cache: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TensorRtFromOnnx:
    """Builds engines.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``, from :func:`load_tensorrt`.
        profiles: At least one.
        compute_capabilities: GPUs to build for, as ``"8.6"``; none is the library's default. Only
            TensorRT for RTX can choose.
        workspace_bytes: Most memory that a kernel may use beside the tensors; ``None`` is all.
        level: Builder optimisation level, 0 to 5; ``None`` is the library's default.
        hardware_compatibility: GPUs beside the one in the machine, as ``"ampere_plus"``.
        version_compatible: Whether later releases may load the engine.
    """

    module: ModuleType
    profiles: tuple[Profile, ...] = (Profile(),)
    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    level: int | None = None
    hardware_compatibility: str | None = None
    version_compatible: bool = False

    @property
    def library(self) -> str:
        """Name and version of the library."""
        return name_of(self.module)

    def export(
        self,
        graph: bytes,
        *,
        timing_cache: bytes | None = None,
        progress: BuildProgress = lambda _done, _phase: None,
    ) -> Engine:
        """Build an engine from a graph.

        Args:
            graph: The contents of an ``.onnx`` file.
            timing_cache: What an earlier build measured; empty to begin one.
            progress: Told how far the build is.

        Raises:
            ExportError: The library cannot parse the graph or build it, or does not know a setting.
        """
        if not self.profiles:
            raise ExportError("an engine needs one optimisation profile at least")
        logger, watch = make_logger(self.module), BuildMonitor(progress)
        with self._translated(logger):
            builder: Any = self.module.Builder(logger)
            network = self._network(builder)
            self._parse(network, logger, graph)
            config = self._config(builder, network)
            cache = self._attach_cache(config, timing_cache)
            # A name of its own: the library keeps no reference to what it calls.
            monitor = make_monitor(self.module, watch)
            config.progress_monitor = monitor
            plan = builder.build_serialized_network(network, config)
            watch.raise_kept()
            if plan is None:
                raise ExportError(f"{self.library} cannot build the graph: {explain(logger)}")
            measured = None if cache is None else bytes(cache.serialize())
            return Engine(bytes(plan), network.num_layers, self.library, measured)

    def _network(self, builder: Any) -> Any:
        flags = self.module.NetworkDefinitionCreationFlag
        # From 11 on every network is strongly typed; the flag is deprecated there, and ignored.
        strong = getattr(flags, "STRONGLY_TYPED", None)
        return builder.create_network(0 if strong is None else 1 << int(strong))

    def _parse(self, network: Any, logger: Any, graph: bytes) -> None:
        parser = self.module.OnnxParser(network, logger)
        if not parser.parse(graph):
            raise ExportError(f"{self.library} cannot parse the graph: {parser_errors(parser)}")
        let_attention_decompose(self.module, network)

    def _config(self, builder: Any, network: Any) -> Any:
        config = builder.create_builder_config()
        for profile in self.profiles:
            self._add_profile(builder, config, network, profile)
        if self.workspace_bytes is not None:
            config.set_memory_pool_limit(self.module.MemoryPoolType.WORKSPACE, self.workspace_bytes)
        if self.level is not None:
            config.builder_optimization_level = self.level
        if self.hardware_compatibility is not None:
            name = self.hardware_compatibility.upper()
            level = member(self.module, "HardwareCompatibilityLevel", name)
            config.hardware_compatibility_level = level
        if self.version_compatible:
            config.set_flag(member(self.module, "BuilderFlag", "VERSION_COMPATIBLE"))
        self._set_compute_capabilities(config)
        return config

    def _add_profile(self, builder: Any, config: Any, network: Any, profile: Profile) -> None:
        shapes = builder.create_optimization_profile()
        dynamic = False
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            axes = [
                tensor.get_dimension_name(axis) or f"axis {axis} of {tensor.name}"
                if size < 0
                else int(size)
                for axis, size in enumerate(tensor.shape)
            ]
            if any(isinstance(each, str) for each in axes):
                shapes.set_shape(tensor.name, *profile.sizes(axes))
                dynamic = True
        if dynamic and config.add_optimization_profile(shapes) < 0:
            raise ExportError(
                f"{self.library} refuses a profile of batch {profile.batch} and classes "
                f"{profile.classes}"
            )

    def _set_compute_capabilities(self, config: Any) -> None:
        wanted = [capability(self.module, each) for each in self.compute_capabilities]
        if wanted:
            config.num_compute_capabilities = len(wanted)
        for index, each in enumerate(wanted):
            if not config.set_compute_capability(each, index):
                raise ExportError(f"{self.library} does not build for {each}")

    def _attach_cache(self, config: Any, timing_cache: bytes | None) -> Any:
        if timing_cache is None:
            return None
        cache = config.create_timing_cache(timing_cache)
        if not cache or not config.set_timing_cache(cache, False):
            raise ExportError(
                f"{self.library} cannot use the timing cache: it is of another version or GPU; "
                "remove it"
            )
        return cache

    @contextmanager
    def _translated(self, logger: Any) -> Iterator[None]:
        """Turn what the bindings raise into one line; they know no exception of their own."""
        try:
            yield
        except (AttributeError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            raise ExportError(
                f"{self.library} failed: {explain(logger, default=str(error))}"
            ) from error
