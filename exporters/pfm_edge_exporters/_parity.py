"""Does the exported graph compute what the model computes? Side by side, over a grid.

Owns the comparison; it knows no framework. The model is a function from an image batch and class
tensors to outputs, the graph any backend of the runtime::

    report = check_parity(torch_reference(source), backend, source, classes=(1, 2, 7, 100))
    report.worst          # 3.1e-06, or a ParityError before

One point of the grid proves little: a graph may have the traced size baked in. Parity may also be
blind, where class tensors hardly move anything: ``sensitivity`` says how much they do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pfm_edge_exporters._noise import imaginary_classes, noise_images, normalised, seeded
from pfm_edge_exporters._source import FloatArray, TorchSource
from pfm_edge_exporters.errors import ParityError
from pfm_edge_runtime.agreement import (
    TOLERANCES,
    Comparison,
    Tolerance,
    difference,
    farthest,
    point_in_words,
)
from pfm_edge_runtime.backends import ImageArray, Outputs, Runner
from pfm_edge_runtime.errors import BackendError

__all__ = [
    "BATCHES",
    "ParityReport",
    "Reference",
    "check_parity",
    "compare_outputs",
    "parity_classes",
    "require_agreement",
]

Reference: TypeAlias = Callable[[FloatArray, Mapping[str, FloatArray]], Outputs]
"""The model: image batch and class tensors (in the graph's shapes) to outputs."""

BATCHES = (1, 2, 5)
_CLASSES = (1, 2, 7)


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The whole grid, within tolerance.

    Attributes:
        rows: The points, by classes and then by batch.
        tolerance: What all of them keep.
        sensitivity: How far the embedding moves, at most, when the last of the fewest classes
            (two or more) is dropped; ``None`` where no point has two classes.
    """

    rows: tuple[Comparison, ...]
    tolerance: Tolerance
    sensitivity: float | None

    @property
    def worst(self) -> float:
        """The largest absolute difference on the grid."""
        return max(row.worst for row in self.rows)

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "tolerance": self.tolerance.as_dict(),
            "worst": self.worst,
            "sensitivity": self.sensitivity,
            "rows": [row.as_dict() for row in self.rows],
        }


def parity_classes(max_classes: int) -> tuple[int, ...]:
    """Return the numbers of classes to compare at, for a model that has ``max_classes``."""
    return tuple(sorted({*_CLASSES, max_classes}))


def check_parity(
    reference: Reference,
    backend: Runner,
    source: TorchSource,
    *,
    batches: Sequence[int] = BATCHES,
    classes: Sequence[int] = _CLASSES,
    tolerance: Tolerance = TOLERANCES["fp32"],
) -> ParityReport:
    """Run model and graph on the same noise at every point of ``batches`` by ``classes``.

    Args:
        reference: The model. It takes float32, also where the graph takes pixels.
        backend: The graph.
        source: Names the inputs and draws the imaginary classes.
        batches: Numbers of images.
        classes: Numbers of classes; ignored for a bare backbone, which has none.
        tolerance: What difference to accept.

    Raises:
        ParityError: They differ by more than that somewhere, a value is no number, the graph
            fails, or dropping a class changes nothing.
        ExportError: ``source.synthesize`` breaks its promise.
    """
    images = noise_images(source.image, max(batches), seeded(source.model_id, "parity images"))
    counts = sorted(set(classes)) if source.class_inputs else [0]
    rows: list[Comparison] = []
    for count in counts:
        draw = seeded(source.model_id, f"parity classes {count}")
        tensors = imaginary_classes(source, count, draw)
        for batch in sorted(set(batches)):
            expected = reference(normalised(images[:batch], source.preprocessing), tensors)
            rows.append(compare_outputs(expected, backend, images[:batch], tensors, count))
    require_agreement(rows, tolerance, against="the model it came from")
    return ParityReport(tuple(rows), tolerance, _sensitivity(backend, source, images[:1], counts))


def compare_outputs(
    expected: Outputs,
    backend: Runner,
    images: ImageArray,
    tensors: Mapping[str, FloatArray],
    classes: int,
) -> Comparison:
    """Run a graph at one point and measure how far it is from ``expected``.

    Raises:
        ParityError: The graph fails there, or its outputs have other shapes.
    """
    found = _run(backend, images, tensors, classes)
    try:
        return Comparison(len(images), classes, difference(expected, found))
    except BackendError as error:
        raise ParityError(f"for {point_in_words(len(images), classes)} {error}") from error


def _run(
    backend: Runner, images: ImageArray, tensors: Mapping[str, FloatArray], classes: int
) -> Outputs:
    try:
        return backend.run(images, tensors)
    except BackendError as error:
        raise ParityError(
            f"the graph does not run for {point_in_words(len(images), classes)}: {error}"
        ) from error


def require_agreement(rows: Sequence[Comparison], tolerance: Tolerance, *, against: str) -> None:
    """Check that every point is within tolerance.

    Raises:
        ParityError: One is not; the message names the worst.
    """
    row = farthest(rows, tolerance)
    if not row.difference.within(tolerance):
        raise ParityError(
            f"the graph does not agree with {against}: for {row.point} "
            f"{row.difference.against(tolerance)}"
        )


def _sensitivity(
    backend: Runner, source: TorchSource, images: ImageArray, counts: Sequence[int]
) -> float | None:
    """Measure what the last class does to the embedding of an image that is not of its class.

    Raises:
        ParityError: Nothing at all, neither there nor in the other classes' logits.
    """
    count = next((each for each in counts if each > 1), None)
    if count is None:
        return None
    draw = seeded(source.model_id, f"parity classes {count}")
    tensors = imaginary_classes(source, count, draw)
    kept = range(count - 1)
    fewer = {e.name: tensors[e.name].take(kept, axis=e.class_axis) for e in source.class_inputs}
    before = _run(backend, images, tensors, count)
    after = _run(backend, images, fewer, count - 1)
    moved = float(np.abs(before.embedding - after.embedding).max(initial=0.0))
    if moved == 0 and np.array_equal(before.logits[:, : count - 1], after.logits):
        raise ParityError(
            f"dropping one of {count} classes changes nothing: the graph ignores the prompts, "
            "so its parity proves nothing"
        )
    return moved
