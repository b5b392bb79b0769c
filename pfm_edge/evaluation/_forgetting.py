"""The forgetting metric: drop k prompts, in every way there is, and measure both sides.

For k in {1, C // 2, C - 1} and every subset of k classes (a seeded sample above 1,000): accuracy on
the images of the removed classes and on the others, in two conventions.

1. Head rows kept, argmax over all C logits: the paper's. Only the workstation can do it.
2. Rows dropped, argmax over the classes present: what a bundle gives. Forget accuracy is 0 by
   construction and proves nothing, so confidence is reported in its place: AUROC of the largest
   softmax, retained against forgotten images, and the share of forgotten images above threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pfm_edge.evaluation._banks import Advance, Images, for_each_bank
from pfm_edge.evaluation._scores import auroc, share_above_threshold
from pfm_edge.model import PromptedViT

__all__ = ["ForgettingRow", "forgetting_metric", "removal_counts", "removed_subsets"]

MAX_SUBSETS = 1000


@dataclass(frozen=True, slots=True)
class ForgettingRow:
    """The metric at one k; accuracies in 0 ... 1, mean and standard deviation over subsets.

    Attributes:
        removed: k, how many prompts are dropped.
        subsets: how many subsets were measured.
        all_subsets: how many there are; larger than `subsets` means a seeded sample.
        forget_mean: accuracy on removed classes, argmax over all C logits (convention 1).
        forget_std: its deviation.
        retain_mean: accuracy on the others, argmax over all C logits (convention 1).
        retain_std: its deviation.
        present_mean: accuracy on the others, argmax over the classes present (convention 2).
        present_std: its deviation.
        auroc_mean: AUROC of confidence, retained against forgotten (convention 2).
        above_threshold_mean: share of forgotten images above the threshold (convention 2).
        forget_by_class: at k = 1, forget accuracy of each class in index order; else empty.
    """

    removed: int
    subsets: int
    all_subsets: int
    forget_mean: float
    forget_std: float
    retain_mean: float
    retain_std: float
    present_mean: float
    present_std: float
    auroc_mean: float
    above_threshold_mean: float
    forget_by_class: tuple[float, ...]


def removal_counts(num_classes: int) -> list[int]:
    """The k that are measured: 1, C // 2 and C - 1, without repeats."""
    return sorted({1, num_classes // 2, num_classes - 1})


def removed_subsets(num_classes: int, removed: int, *, seed: int) -> list[tuple[int, ...]]:
    """All subsets of `removed` classes, or a seeded sample of 1,000 distinct ones."""
    if math.comb(num_classes, removed) <= MAX_SUBSETS:
        return list(combinations(range(num_classes), removed))
    draw = np.random.default_rng([seed, removed])
    sample: set[tuple[int, ...]] = set()
    while len(sample) < MAX_SUBSETS:
        chosen = draw.choice(num_classes, size=removed, replace=False)
        sample.add(tuple(sorted(int(c) for c in chosen)))
    return sorted(sample)


def forgetting_metric(
    model: PromptedViT,
    split: Images,
    *,
    seed: int,
    advance: Advance | None = None,
) -> list[ForgettingRow]:
    """Measure forgetting at every k.

    Args:
        model: any device; left in eval mode.
        split: held-out images, every class among them.
        seed: of the sample, where there are more than 1,000 subsets.
        advance: progress, in images per subset.
    """
    classes = model.num_classes
    return [
        _row(model, split, removed_subsets(classes, k, seed=seed), advance)
        for k in removal_counts(classes)
    ]


def _row(
    model: PromptedViT, split: Images, subsets: Sequence[tuple[int, ...]], advance: Advance | None
) -> ForgettingRow:
    classes, removed = model.num_classes, len(subsets[0])
    kept = [torch.tensor([c for c in range(classes) if c not in s]) for s in subsets]
    measured = _Measured(split.labels, kept, classes)
    for_each_bank(model, split, kept, measured.use, advance)
    forget, retain, present, area, above = measured.per_subset()
    return ForgettingRow(
        removed=removed,
        subsets=len(subsets),
        all_subsets=math.comb(classes, removed),
        forget_mean=float(forget.mean()),
        forget_std=float(forget.std()),
        retain_mean=float(retain.mean()),
        retain_std=float(retain.std()),
        present_mean=float(present.mean()),
        present_std=float(present.std()),
        auroc_mean=float(area.mean()),
        above_threshold_mean=float(above.mean()),
        forget_by_class=tuple(forget.tolist()) if removed == 1 else (),
    )


class _Measured:
    """Per subset and image: right over all logits, right over present ones, confidence."""

    def __init__(self, labels: Tensor, kept: Sequence[Tensor], classes: int) -> None:
        self._labels = labels
        self._kept = kept
        self._present = torch.zeros(len(kept), classes, dtype=torch.bool)
        for number, bank in enumerate(kept):
            self._present[number, bank] = True
        shape = (len(kept), len(labels))
        self._right_all = np.zeros(shape, dtype=bool)
        self._right_present = np.zeros(shape, dtype=bool)
        self._confidence = np.zeros(shape, dtype=np.float32)

    def use(self, number: int, rows: slice, logits: Tensor) -> None:
        labels, bank = self._labels[rows], self._kept[number]
        present = logits[:, bank]
        self._right_all[number, rows] = (logits.argmax(1) == labels).numpy()
        self._right_present[number, rows] = (bank[present.argmax(1)] == labels).numpy()
        self._confidence[number, rows] = present.softmax(1).amax(1).numpy()

    def per_subset(self) -> tuple[NDArray[np.float64], ...]:
        kept = self._present[:, self._labels].numpy()  # [subsets, n]: is the image's class there
        results = np.array([self._one(number, mask) for number, mask in enumerate(kept)])
        return tuple(results.T)

    def _one(self, number: int, kept: NDArray[np.bool_]) -> tuple[float, ...]:
        retained, forgotten = self._confidence[number, kept], self._confidence[number, ~kept]
        return (
            float(self._right_all[number, ~kept].mean()),
            float(self._right_all[number, kept].mean()),
            float(self._right_present[number, kept].mean()),
            auroc(retained, forgotten),
            share_above_threshold(retained, forgotten),
        )
