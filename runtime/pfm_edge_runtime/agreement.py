"""How far two outputs are apart, and how far they may be.

Owns the measure and the tolerance of each precision, so that an export on a workstation and a check
on a device judge alike::

    found = difference(expected, graph.run(images, class_tensors))
    found.within(TOLERANCES["fp32"])         # or found.against(...) says why not, in words

A float32 graph differs from the model by rounding alone, so the largest absolute difference says
everything. In half precision and in eight bits the values themselves move, in proportion to their
size; there the direction of the vectors counts, and their length.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pfm_edge_runtime.backends import FloatArray, Outputs
from pfm_edge_runtime.errors import BackendError
from pfm_edge_runtime.manifest import Precision

__all__ = [
    "TOLERANCES",
    "Comparison",
    "Difference",
    "Tolerance",
    "difference",
    "farthest",
    "point_in_words",
]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What counts as the same; one of the two is set.

    Attributes:
        absolute: Largest absolute difference, in logits and in the embedding.
        cosine: Smallest likeness of outputs; see :class:`Difference`.
    """

    absolute: float | None = None
    cosine: float | None = None

    def __str__(self) -> str:
        return f"cosine {self.cosine:g}" if self.absolute is None else f"{self.absolute:.0e}"

    def as_dict(self) -> dict[str, float | None]:
        """Return it as values that JSON has."""
        return {"absolute": self.absolute, "cosine": self.cosine}


TOLERANCES: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        "fp32": Tolerance(absolute=1e-4),  # thirty times what a ViT-S differs by
        "fp16": Tolerance(cosine=0.9999),  # a ViT-S keeps 0.999999, rounded for real or not
        "int8": Tolerance(cosine=0.98),  # a pretrained ViT-S keeps 0.994, fresh ones 0.999
    }
)
"""By precision of the graph."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far outputs are from those expected; infinite, and cosine -1, where one is no number.

    Attributes:
        logits: Largest absolute difference of the logits.
        embedding: Largest absolute difference of the embedding.
        cosine: Smallest likeness, of any image's embedding or of all outputs taken together:
            ``2ab / (aa + bb)``, which is their cosine, less where their lengths differ.
    """

    logits: float
    embedding: float
    cosine: float

    @property
    def worst(self) -> float:
        """The larger of the two absolute differences."""
        return max(self.logits, self.embedding)

    def within(self, tolerance: Tolerance) -> bool:
        """Tell whether that counts as the same."""
        if tolerance.absolute is not None and not self.worst <= tolerance.absolute:
            return False
        return tolerance.cosine is None or self.cosine >= tolerance.cosine

    def against(self, tolerance: Tolerance) -> str:
        """Return what there is to say to a person who asked for ``tolerance``."""
        output = "logits" if self.logits >= self.embedding else "embedding"
        if math.isinf(self.worst):
            return f"the {output} values are not finite"
        if tolerance.absolute is None:
            return f"the cosine is {self.cosine:.5f} (tolerance {tolerance.cosine:g})"
        return f"the {output} values differ by {self.worst:.1e} (tolerance {tolerance})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One point at which a graph was compared.

    Attributes:
        batch: Number of images.
        classes: Number of classes.
        difference: How far the outputs are from those expected.
    """

    batch: int
    classes: int
    difference: Difference

    @property
    def worst(self) -> float:
        """The larger of the two absolute differences."""
        return self.difference.worst

    @property
    def point(self) -> str:
        """Where that was, in words."""
        return point_in_words(self.batch, self.classes)

    def as_dict(self) -> dict[str, int | float]:
        """Return it as values that JSON has."""
        return {
            "batch": self.batch,
            "classes": self.classes,
            "logits": self.difference.logits,
            "embedding": self.difference.embedding,
            "cosine": self.difference.cosine,
        }


def point_in_words(batch: int, classes: int) -> str:
    """Return as ``"1 image and 2 classes"``."""
    return f"{batch} image{'s'[: batch != 1]} and {classes} class{'es'[: 2 * (classes != 1)]}"


def farthest(rows: Sequence[Comparison], tolerance: Tolerance) -> Comparison:
    """Return the comparison that is farthest from what ``tolerance`` asks for."""
    if tolerance.absolute is None:
        return min(rows, key=lambda row: row.difference.cosine)
    return max(rows, key=lambda row: row.worst)


def difference(expected: Outputs, found: Outputs) -> Difference:
    """Measure how far outputs are from those expected.

    Raises:
        BackendError: They have other shapes.
    """
    for name in ("logits", "embedding"):
        left, right = getattr(expected, name), getattr(found, name)
        if left.shape != right.shape:
            raise BackendError(
                f"the graph gives {name} as {list(right.shape)}, not {list(left.shape)}"
            )
    cosine = min(
        _likeness(_everything(expected), _everything(found)),
        _likeness(expected.embedding, found.embedding),
    )
    return Difference(
        logits=_largest(expected.logits, found.logits),
        embedding=_largest(expected.embedding, found.embedding),
        cosine=cosine,
    )


def _everything(outputs: Outputs) -> FloatArray:
    """Return all values in one row: a lone logit near zero says nothing about likeness."""
    return np.concatenate([outputs.logits.ravel(), outputs.embedding.ravel()])[None]


def _largest(left: FloatArray, right: FloatArray) -> float:
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return math.inf
    return float(np.abs(np.subtract(left, right, dtype=np.float64)).max(initial=0.0))


def _likeness(left: FloatArray, right: FloatArray) -> float:
    """Return the smallest of ``2ab / (aa + bb)`` over rows; two rows of zeros are alike."""
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return -1.0
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = (a * a).sum(axis=1) + (b * b).sum(axis=1)
    products = 2 * (a * b).sum(axis=1)
    alike = np.divide(products, lengths, out=np.ones_like(products), where=lengths > 0)
    return float(alike.min(initial=1.0))
