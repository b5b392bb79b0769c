"""Which epoch's model a run keeps: judged on training images alone, never on held-out ones.

How well a model forgets swings from epoch to epoch while it already classifies well, so the last
epoch is an accident. A model's score is retain minus forget accuracy, one prompt removed at a time,
over a fixed sample of the training images; the last third of the epochs competes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pfm_edge.data import Split
from pfm_edge.evaluation import epoch_metrics
from pfm_edge.model import PromptedViT
from pfm_edge.training._randomness import generator

__all__ = ["Selection"]

_MAX_IMAGES = 1000


@dataclass(frozen=True, slots=True)
class _Sample:
    """Some images of a split, as a split."""

    split: Split
    rows: Tensor

    @property
    def labels(self) -> Tensor:
        return self.split.labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, indices: Tensor) -> Tensor:
        return self.split.images(self.rows[indices])


@dataclass(frozen=True, slots=True)
class Selection:
    """Scores models on a fixed, stratified sample: 1,000 images, or one of each class."""

    sample: _Sample
    seed: int

    @classmethod
    def of(cls, train: Split, *, seed: int) -> "Selection":
        """Draw the sample: as equal a share of each class as its images allow, one at least."""
        labels = train.labels
        shuffled = torch.randperm(len(labels), generator=generator(seed, "selection", 0))
        counts = torch.bincount(labels)
        each = max(1, _MAX_IMAGES // int((counts > 0).sum()))
        rows = [shuffled[labels[shuffled] == label][:each] for label in range(len(counts))]
        return cls(_Sample(train, torch.cat(rows)), seed)

    def score(self, model: PromptedViT) -> float:
        """Return retain minus forget accuracy, from -1 to 1; larger is better."""
        metrics = epoch_metrics(model, self.sample, seed=self.seed)
        return metrics.retain_accuracy - metrics.forget_accuracy
