"""Does the exported graph compute what the model computes? Side by side, over a grid.

Owns the comparison; it knows no framework. The model is a function from an image batch and class
tensors to outputs, the graph any backend of the runtime::

    report = check_parity(torch_reference(source), backend, source, classes=(1, 2, 7, 100))
    report.worst          # 3.1e-06, or a ParityError before

One point of the grid proves little: a graph may have the traced size baked in. Parity may also be
blind, where class tensors hardly move anything: ``sensitivity`` says how much they do.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pfm_edge_exporters._noise import imaginary_classes, noise_images, seeded
from pfm_edge_exporters._source import FloatArray, TorchSource
from pfm_edge_exporters.errors import ParityError
from pfm_edge_runtime.backends import Backend, Outputs
from pfm_edge_runtime.errors import BackendError

__all__ = [
    "ATOL",
    "BATCHES",
    "ParityReport",
    "ParityRow",
    "Reference",
    "check_parity",
    "compare_outputs",
    "parity_classes",
    "require_agreement",
]

Reference: TypeAlias = Callable[[FloatArray, Mapping[str, FloatArray]], Outputs]
"""The model: image batch and class tensors (in the graph's shapes) to outputs."""

ATOL = 1e-4  # float32, absolute: thirty times what a ViT-S differs by, a thousandth of a logit
BATCHES = (1, 2, 5)
_CLASSES = (1, 2, 7)


@dataclass(frozen=True, slots=True)
class ParityRow:
    """One point of the grid: the largest absolute differences; infinite where one is no number.

    Attributes:
        batch: Number of images.
        classes: Number of classes.
        logits: Difference of the logits.
        embedding: Difference of the embedding.
    """

    batch: int
    classes: int
    logits: float
    embedding: float

    @property
    def worst(self) -> float:
        """The larger of the two differences."""
        return max(self.logits, self.embedding)

    def as_dict(self) -> dict[str, int | float]:
        """Return the point as values that JSON has."""
        return {
            "batch": self.batch,
            "classes": self.classes,
            "logits": self.logits,
            "embedding": self.embedding,
        }


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The whole grid, within tolerance.

    Attributes:
        rows: The points, by classes and then by batch.
        atol: The absolute tolerance that all of them keep.
        sensitivity: How far the embedding moves, at most, when the last of the fewest classes
            (two or more) is dropped; ``None`` where no point has two classes.
    """

    rows: tuple[ParityRow, ...]
    atol: float
    sensitivity: float | None

    @property
    def worst(self) -> float:
        """The largest absolute difference on the grid."""
        return max(row.worst for row in self.rows)

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "atol": self.atol,
            "worst": self.worst,
            "sensitivity": self.sensitivity,
            "rows": [row.as_dict() for row in self.rows],
        }


def parity_classes(max_classes: int) -> tuple[int, ...]:
    """Return the numbers of classes to compare at, for a model that has ``max_classes``."""
    return tuple(sorted({*_CLASSES, max_classes}))


def check_parity(
    reference: Reference,
    backend: Backend,
    source: TorchSource,
    *,
    batches: Sequence[int] = BATCHES,
    classes: Sequence[int] = _CLASSES,
    atol: float = ATOL,
) -> ParityReport:
    """Run model and graph on the same noise at every point of ``batches`` by ``classes``.

    Args:
        reference: The model.
        backend: The graph.
        source: Names the inputs and draws the imaginary classes.
        batches: Numbers of images.
        classes: Numbers of classes; ignored for a bare backbone, which has none.
        atol: Largest absolute difference to accept, in logits and in the embedding.

    Raises:
        ParityError: They differ by more than ``atol`` somewhere, a value is no number, the graph
            fails, or dropping a class changes nothing.
        ExportError: ``source.synthesize`` breaks its promise.
    """
    images = noise_images(source.image, max(batches), seeded(source.model_id, "parity images"))
    counts = sorted(set(classes)) if source.class_inputs else [0]
    rows: list[ParityRow] = []
    for count in counts:
        draw = seeded(source.model_id, f"parity classes {count}")
        tensors = imaginary_classes(source, count, draw)
        for batch in sorted(set(batches)):
            expected = reference(images[:batch], tensors)
            rows.append(compare_outputs(expected, backend, images[:batch], tensors, count))
    require_agreement(rows, atol, against="the model it came from")
    return ParityReport(tuple(rows), atol, _sensitivity(backend, source, images[:1], counts))


def compare_outputs(
    expected: Outputs,
    backend: Backend,
    images: FloatArray,
    tensors: Mapping[str, FloatArray],
    classes: int,
) -> ParityRow:
    """Run a graph at one point and measure how far it is from ``expected``.

    Raises:
        ParityError: The graph fails there, or its outputs have other shapes.
    """
    point = _point(len(images), classes)
    found = _run(backend, images, tensors, classes)
    differences = []
    for name in ("logits", "embedding"):
        left, right = getattr(expected, name), getattr(found, name)
        if left.shape != right.shape:
            raise ParityError(
                f"for {point} the graph gives {name} as {list(right.shape)}, "
                f"the model as {list(left.shape)}"
            )
        differences.append(_largest_difference(left, right))
    return ParityRow(len(images), classes, *differences)


def _run(
    backend: Backend, images: FloatArray, tensors: Mapping[str, FloatArray], classes: int
) -> Outputs:
    try:
        return backend.run(images, tensors)
    except BackendError as error:
        raise ParityError(
            f"the graph does not run for {_point(len(images), classes)}: {error}"
        ) from error


def require_agreement(rows: Sequence[ParityRow], atol: float, *, against: str) -> None:
    """Check that every point is within tolerance.

    Raises:
        ParityError: One is not; the message names the worst.
    """
    row = max(rows, key=lambda each: each.worst)
    if row.worst <= atol:
        return
    output = "logits" if row.logits >= row.embedding else "embedding"
    finding = "are not finite" if math.isinf(row.worst) else f"differ by {row.worst:.1e}"
    raise ParityError(
        f"the graph does not agree with {against}: for {_point(row.batch, row.classes)} the "
        f"{output} values {finding} (tolerance {atol:.0e})"
    )


def _point(batch: int, classes: int) -> str:
    return f"{batch} image{'s'[: batch != 1]} and {classes} class{'es'[: 2 * (classes != 1)]}"


def _largest_difference(left: FloatArray, right: FloatArray) -> float:
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return math.inf
    return float(np.abs(np.subtract(left, right, dtype=np.float64)).max(initial=0.0))


def _sensitivity(
    backend: Backend, source: TorchSource, images: FloatArray, counts: Sequence[int]
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
    moved = _largest_difference(before.embedding, after.embedding)
    if moved == 0 and np.array_equal(before.logits[:, : count - 1], after.logits):
        raise ParityError(
            f"dropping one of {count} classes changes nothing: the graph ignores the prompts, "
            "so its parity proves nothing"
        )
    return moved
