"""Three figures after every epoch: full bank, retained, forgotten; one prompt removed at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pfm_edge.evaluation._banks import Images, all_but, logits_of
from pfm_edge.model import PromptedViT

__all__ = ["EpochMetrics", "epoch_metrics"]


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """Accuracies in 0 ... 1 on the held-out images, head rows kept (argmax over all C logits).

    Attributes:
        full_bank_accuracy: all prompts present.
        retain_accuracy: one other class's prompt removed, a fixed random one for each image; an
            unbiased estimate of the mean over classes that `pfm-edge evaluate` computes in full.
        forget_accuracy: the image's own prompt removed; exact, mean over classes.
        forget_accuracy_by_class: the same for each class, in index order.
    """

    full_bank_accuracy: float
    retain_accuracy: float
    forget_accuracy: float
    forget_accuracy_by_class: tuple[float, ...]

    def as_dict(self, class_ids: Sequence[str]) -> dict[str, Any]:
        """Return a JSON object; classes are named by id."""
        return {
            "full_bank_accuracy": self.full_bank_accuracy,
            "retain_accuracy": self.retain_accuracy,
            "forget_accuracy": self.forget_accuracy,
            "forget_accuracy_by_class": dict(
                zip(class_ids, self.forget_accuracy_by_class, strict=True)
            ),
        }


def epoch_metrics(model: PromptedViT, split: Images, *, seed: int) -> EpochMetrics:
    """Measure a model on held-out images: three passes over them.

    Args:
        model: any device; left in eval mode.
        split: held-out images of at least two classes.
        seed: picks, for each image, the other class whose prompt is removed.
    """
    labels, classes = split.labels, model.num_classes
    draw = torch.Generator().manual_seed(seed)
    other = torch.randint(classes - 1, labels.shape, generator=draw)
    other = other + (other >= labels).long()
    banks = [torch.arange(classes), all_but(other, classes), all_but(labels, classes)]
    correct = logits_of(model, split, banks).argmax(dim=2) == labels
    by_class = [float(correct[2][labels == c].float().mean()) for c in range(classes)]
    return EpochMetrics(
        full_bank_accuracy=float(correct[0].float().mean()),
        retain_accuracy=float(correct[1].float().mean()),
        forget_accuracy=sum(by_class) / classes,
        forget_accuracy_by_class=tuple(by_class),
    )
