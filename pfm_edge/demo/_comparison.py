"""Before and after a forget, as the device saw it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pfm_edge.demo._device import Predictions
from pfm_edge.evaluation import auroc, share_above_threshold

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Figures of one forget; accuracies and scores in 0 ... 1, argmax over the classes present.

    Attributes:
        retain_before: accuracy on the images of the classes that stay, before.
        retain_after: the same, after.
        gone_before: accuracy on the images of the class that went, before.
        gone_score_before: their mean score before.
        gone_score_after: their mean score after (of whatever other class was named).
        gone_becomes: the classes named for them after, most frequent first, with counts.
        auroc: of scores after, retained against forgotten images.
        gone_above_threshold: share of forgotten images above the score 95 % of retained ones reach.
        confusion_before: counts [true][named] over labels in order.
        confusion_after: the same, after.
    """

    retain_before: float
    retain_after: float
    gone_before: float
    gone_score_before: float
    gone_score_after: float
    gone_becomes: tuple[tuple[str, int], ...]
    auroc: float
    gone_above_threshold: float
    confusion_before: tuple[tuple[int, ...], ...]
    confusion_after: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def compare(
    truth: Sequence[str],
    before: Predictions,
    after: Predictions,
    classes: dict[str, str],
    forgotten: str,
) -> Comparison:
    """Compare two rounds of predictions over the same images.

    Args:
        truth: the true class id of each image.
        before: predictions with all classes.
        after: predictions without `forgotten`.
        classes: label by class id, before.
        forgotten: the class id that went.
    """
    true = np.array(truth)
    named = np.array(before.class_ids), np.array(after.class_ids)
    scores = np.array(before.scores, np.float32), np.array(after.scores, np.float32)
    gone = true == forgotten
    counts = Counter(classes[class_id] for class_id in named[1][gone])
    ids = sorted(classes, key=lambda class_id: classes[class_id])
    return Comparison(
        retain_before=float((named[0] == true)[~gone].mean()),
        retain_after=float((named[1] == true)[~gone].mean()),
        gone_before=float((named[0] == true)[gone].mean()),
        gone_score_before=float(scores[0][gone].mean()),
        gone_score_after=float(scores[1][gone].mean()),
        gone_becomes=tuple(counts.most_common()),
        auroc=auroc(scores[1][~gone], scores[1][gone]),
        gone_above_threshold=share_above_threshold(scores[1][~gone], scores[1][gone]),
        confusion_before=_confusion(true, named[0], ids),
        confusion_after=_confusion(true, named[1], ids),
    )


def _confusion(
    true: "np.ndarray[Any, Any]", named: "np.ndarray[Any, Any]", ids: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(int(((true == row) & (named == column)).sum()) for column in ids) for row in ids
    )
