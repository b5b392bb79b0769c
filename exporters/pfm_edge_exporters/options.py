"""What an export is asked for: which graphs, judged how strictly, with which images.

Owns the words between whoever asks and whoever exports, and their contradictions::

    options = ExportOptions(max_classes=10, precisions=("fp16", "int8"), held_out=held_out)
    [each.file for each in options.variants()]
    # ["backbone.onnx", "backbone.fp16.onnx", "backbone.int8.onnx"]
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pfm_edge_exporters._cpu import CpuFlags, cpu_flags
from pfm_edge_exporters._source import FloatArray
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.backends import ImageArray
from pfm_edge_runtime.manifest import Precision, Variant

__all__ = ["Calibration", "ExportOptions", "HeldOut", "ImageBatches", "Machine"]

_OPSET_23 = 23

ImageBatches: TypeAlias = Callable[[], Iterator[ImageArray]]
"""Gives batches of images as the graph takes them, from the first one each time it is called."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Labelled images that the model did not learn from.

    Attributes:
        labels: int64 [n], rows of the class tensors.
        batches: Gives the n images, in that order.
        class_tensors: float32 by class input, in the graph's shapes, every class.
        trained: What the model says as it was trained, int64 [n], where that is not what the
            float32 graph says: for another image size.
    """

    labels: NDArray[np.int64]
    batches: ImageBatches
    class_tensors: Mapping[str, FloatArray]
    trained: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Images whose activations are typical.

    They meet imaginary classes: a range that a class had a part in would stay in the graph, where
    no forget could reach it.

    Attributes:
        description: What they are, for the record: ``"512 images of calibration/"``.
        batches: Gives them.
    """

    description: str
    batches: ImageBatches


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that exports, as far as it decides what is exported.

    Attributes:
        cpu_flags: What its processor can do.
        clock: Seconds that only grow, for comparing two graphs.
    """

    cpu_flags: CpuFlags = cpu_flags
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export, beside the float32 graph that every package has.

    Attributes:
        max_classes: The largest number of classes to compare model and graph at.
        overwrite: Whether an existing package may be replaced; nothing else ever is.
        precisions: Further graphs in these precisions.
        capacity: Further graphs with room for so many classes, one in each precision.
        batch: Number of images of those; ``None`` leaves it open.
        opset23: One more graph, of opset 23, whose attention is one node.
        calibration: What to calibrate an int8 graph with; without it, each run measures its own
            ranges.
        held_out: What accuracy is measured on; without it, none is.
        max_accuracy_drop: Largest loss to accept, in points: of 100 images, one is a point.
        force: Whether graphs are kept that are slower here than the float32 graph, or that this
            processor cannot run fast. A loss of accuracy is never forced.
        machine: The machine.
    """

    max_classes: int
    overwrite: bool = False
    precisions: tuple[Precision, ...] = ()
    capacity: int | None = None
    batch: int | None = None
    opset23: bool = False
    calibration: Calibration | None = None
    held_out: HeldOut | None = None
    max_accuracy_drop: float = 0.5
    force: bool = False
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        if self.max_classes < 1:
            raise ExportError(f"max_classes must be 1 or more, not {self.max_classes}")
        if self.capacity is not None and self.capacity < self.max_classes:
            raise ExportError(
                f"a static graph for {self.capacity} classes has no room for the "
                f"{self.max_classes} that there are: raise --max-classes"
            )
        if self.batch is not None and (self.capacity is None or self.batch < 1):
            raise ExportError("a fixed batch of 1 or more goes with --static alone")
        if self.calibration is not None and "int8" not in self.precisions:
            raise ExportError("only int8 is calibrated: add --precision int8")
        if not 0 <= self.max_accuracy_drop <= 100:  # noqa: PLR2004 (points)
            raise ExportError("the accuracy drop to accept is 0 to 100 points")

    def variants(self) -> tuple[Variant, ...]:
        """Return every graph that is asked for; the one that runs anywhere is the first."""
        precisions: list[Precision] = ["fp32"]
        precisions += [each for each in ("fp16", "int8") if each in self.precisions]
        found = [Variant(_file(each), each) for each in precisions]
        if self.opset23:
            found.append(Variant(_file("fp32", "opset23"), "fp32", opset=_OPSET_23))
        if self.capacity is not None:
            found += [
                Variant(_file(each, f"static-{self.capacity}"), each, self.capacity, self.batch)
                for each in precisions
            ]
        return tuple(found)

    def way_without(self, variant: Variant) -> str | None:
        """Return what to leave out if a graph is no good; ``None`` for the one that must be."""
        if variant.precision == "int8" and self.calibration is not None:
            return "leave out --calibration, or calibrate with other images"
        if variant.precision != "fp32":
            return f"leave out --precision {variant.precision}"
        if variant.opset == _OPSET_23:
            return "leave out --opset23"
        return None if variant.capacity is None else "leave out --static"


def _file(precision: Precision, *parts: str) -> str:
    words = ["backbone", *([precision] if precision != "fp32" else []), *parts]
    return ".".join([*words, "onnx"])
