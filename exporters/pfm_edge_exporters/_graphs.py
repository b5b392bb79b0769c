"""The graphs of a package: made one after another, each judged before it stays.

Owns what a graph must show: that it computes the model, and, where it computes it in fewer bits,
what it still knows of held-out images and whether the bits bought any speed::

    graphs = Graphs(staging, source, options, stages)
    reports = graphs.make()          # files are written, or an ExportError says why not
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pfm_edge_exporters._calibration import Batch, calibrate
from pfm_edge_exporters._cpu import instructions_for_int8
from pfm_edge_exporters._derive import derive, read_graph
from pfm_edge_exporters._int8 import Ranges
from pfm_edge_exporters._judging import (
    Accuracy,
    Speed,
    compare_accuracy,
    compare_speed,
    predictions,
)
from pfm_edge_exporters._noise import imaginary_classes, noise_images, seeded
from pfm_edge_exporters._parity import ParityReport, Reference, check_parity, parity_classes
from pfm_edge_exporters._report import Stages, VariantReport
from pfm_edge_exporters._source import FloatArray, TorchSource
from pfm_edge_exporters.errors import ExportError, ParityError
from pfm_edge_exporters.onnx_from_torch import OnnxFromTorch, torch_reference
from pfm_edge_exporters.options import Calibration, ExportOptions, HeldOut
from pfm_edge_runtime.agreement import TOLERANCES
from pfm_edge_runtime.backends import Outputs, load_backend
from pfm_edge_runtime.manifest import Manifest, Variant
from pfm_edge_runtime.store import write_atomic
from pfm_edge_runtime.variants import VariantGraph

__all__ = ["Graphs", "named", "require_machine", "write_file"]


def require_machine(options: ExportOptions) -> None:
    """Refuse, before any work, what this machine can neither run fast nor judge.

    Raises:
        ExportError: It has no instructions for int8.
    """
    if "int8" not in options.precisions or options.force:
        return
    if instructions_for_int8(options.machine.cpu_flags) is None:
        raise ExportError(
            "this processor has no VNNI (nor ARM's dot products), so an int8 graph would be slow "
            "here and cannot be judged: export on one that has, or add --force"
        )


def named(error: ParityError, variant: Variant, options: ExportOptions) -> ParityError:
    """Say which graph it is that does not agree, and how to export without it."""
    remedy = options.way_without(variant)
    return ParityError(f"{variant.file}: {error}" + (f"; {remedy}" if remedy else ""))


def write_file(path: Path, data: bytes) -> str:
    """Write a file of the package; return its digest."""
    write_atomic(path, data)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Graphs:
    """Makes every graph that is asked for, in a directory.

    Attributes:
        files: Digests of what was written, by name.
        left_out: What was made, judged and dropped: why, in words, by name.
        source: The model.
        options: What is asked for.
        stages: Told of each step.
        reference: The model as a function, which remembers.
    """

    def __init__(
        self,
        staging: Path,
        source: TorchSource,
        manifest: Manifest,
        options: ExportOptions,
        stages: Stages,
    ) -> None:
        self.files: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._staging = staging
        self.source = source
        self._manifest = manifest
        self.options = options
        self.stages = stages
        self.reference = _remembered(torch_reference(source))
        self._before: NDArray[np.int64] | None = None
        self._ranges: Ranges | None = None

    def make(self) -> tuple[VariantReport, ...]:
        """Make, judge and write them all.

        Raises:
            ExportError: A graph cannot be made, or loses more than it may.
            ParityError: A graph does not compute what the model does.
        """
        first, *others = self.options.variants()
        reports = [self._make_first(first)]
        for variant in others:
            report = self._make(variant, first)
            if report is not None:
                reports.append(report)
        return tuple(reports)

    def load(self, variant: Variant) -> VariantGraph:
        """Load a graph that was made; from its file, so that no second copy of it is in memory.

        Raises:
            BackendError: ONNX Runtime cannot load it.
        """
        backend = load_backend("onnxruntime")(self._staging / variant.file)
        return VariantGraph.of(backend, variant, self._manifest)

    def _make_first(self, variant: Variant) -> VariantReport:
        with self.stages("converting to ONNX"):
            size = self._write(variant, OnnxFromTorch().export(self.source))
        with self.stages("comparing with torch"):
            graph = self.load(variant)
            parity = self._parity(graph)
        return VariantReport(variant, size, parity, self._accuracy(graph))

    def _make(self, variant: Variant, first: Variant) -> VariantReport | None:
        path = self._staging / first.file
        if variant.precision == "int8":
            self._calibrate(path)
        with self.stages(f"{variant.file}: making it"):
            ranges = self._ranges if variant.precision == "int8" else None
            size = self._write(variant, derive(path, variant, self.source, ranges=ranges))
        with self.stages(f"{variant.file}: comparing with torch"):
            graph = self.load(variant)
            parity = self._parity(graph)
        accuracy = self._accuracy(graph)
        speed = self._speed(graph, first)
        if speed is not None and not self._is_worth_keeping(variant, speed):
            return None
        return VariantReport(variant, size, parity, accuracy, speed)

    def _write(self, variant: Variant, data: bytes) -> int:
        self.files[variant.file] = write_file(self._staging / variant.file, data)
        return len(data)

    def _calibrate(self, first: Path) -> None:
        calibration = self.options.calibration
        if calibration is None or self._ranges is not None:
            return
        with self.stages("calibrating"):
            batches = self._calibration_batches(calibration)
            self._ranges = calibrate(read_graph(first), batches, load_backend("onnxruntime"))

    def _calibration_batches(self, calibration: Calibration) -> Iterator[Batch]:
        """Give the images, each batch with other imaginary classes: nothing of a real one stays."""
        draw = seeded(self.source.model_id, "calibration")
        for images in calibration.batches():
            yield images, imaginary_classes(self.source, self.options.max_classes, draw)

    def _parity(self, graph: VariantGraph) -> ParityReport:
        counts = parity_classes(self.options.max_classes)
        try:
            return check_parity(
                self.reference,
                graph,
                self.source,
                classes=[each for each in counts if graph.layout.holds(each)],
                tolerance=TOLERANCES[graph.variant.precision],
            )
        except ParityError as error:
            raise named(error, graph.variant, self.options) from error

    def _accuracy(self, graph: VariantGraph) -> Accuracy | None:
        """Measure what a graph knows, where fewer bits or another size may have cost something.

        Raises:
            ExportError: They did, more than they may.
        """
        held_out, file = self.options.held_out, graph.variant.file
        is_first = graph.variant == self.options.variants()[0]
        if held_out is None or not self._is_measured(graph.variant, held_out):
            return None
        with self.stages(f"{file}: accuracy on held-out images"):
            found = predictions(
                graph,
                held_out,
                lambda done, total: self.stages.progress(f"{file}: accuracy, {done} of {total}"),
            )
        if self._before is None:
            self._before = found if held_out.trained is None else held_out.trained
        accuracy = compare_accuracy(found, self._before, held_out.labels)
        if accuracy.drop > self.options.max_accuracy_drop + 1e-9:  # of one in a thousand, exactly
            raise ExportError(_lost(graph.variant, accuracy, self.options, is_first=is_first))
        return accuracy

    def _is_measured(self, variant: Variant, held_out: HeldOut) -> bool:
        if variant.precision != "fp32":
            return True
        variants = self.options.variants()
        fewer_bits = any(each.precision != "fp32" for each in variants)
        return variant == variants[0] and (fewer_bits or held_out.trained is not None)

    def _speed(self, graph: VariantGraph, first: Variant) -> Speed | None:
        """Measure how fast a graph is, where speed is what it is for."""
        variant = graph.variant
        if variant.capacity is not None or (variant.precision != "int8" and variant.opset == 18):  # noqa: PLR2004
            return None
        draw = seeded(self.source.model_id, "speed")
        images = noise_images(self.source.image, 1, draw)
        tensors = imaginary_classes(self.source, self.options.max_classes, draw)
        with self.stages(f"{variant.file}: speed beside {first.file}"):
            return compare_speed(
                self.load(first), graph, images, tensors, clock=self.options.machine.clock
            )

    def _is_worth_keeping(self, variant: Variant, speed: Speed) -> bool:
        """Tell whether a graph stays.

        Raises:
            ExportError: An int8 graph is slower than float32: it has no other purpose.
        """
        if not speed.is_slower or self.options.force:
            return True
        finding = f"{variant.file} is slower here than {self.options.variants()[0].file}: {speed}"
        if variant.precision == "int8":
            raise ExportError(f"{finding}; leave out --precision int8, or add --force")
        (self._staging / variant.file).unlink()
        del self.files[variant.file]
        self.left_out[variant.file] = f"{finding}; it was left out, --force keeps it"
        return False


def _lost(variant: Variant, found: Accuracy, options: ExportOptions, *, is_first: bool) -> str:
    remedy = "choose another --image-size" if is_first else options.way_without(variant)
    return (
        f"{variant.file}: {found}: {found.drop:.2f} points are lost, and "
        f"{options.max_accuracy_drop:g} may be; {remedy}, or raise --max-accuracy-drop"
    )


def _remembered(reference: Reference) -> Reference:
    """Let a model run once for each of its inputs: every graph is compared with the same."""
    known: dict[tuple[object, ...], Outputs] = {}

    def run(images: FloatArray, class_tensors: Mapping[str, FloatArray]) -> Outputs:
        arrays = (images, *class_tensors.values())
        key = tuple((each.shape, hash(each.tobytes())) for each in arrays)
        if key not in known:
            known[key] = reference(images, class_tensors)
        return known[key]

    return run
