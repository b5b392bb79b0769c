"""Two questions about confidence: can it tell forgotten images, and does it pass a threshold."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

__all__ = ["RETAINED_PASS_RATE", "auroc", "share_above_threshold"]

RETAINED_PASS_RATE = 0.95
"""The score threshold is the one that this share of retained images passes."""


def auroc(retained: NDArray[np.float32], forgotten: NDArray[np.float32]) -> float:
    """Area under the ROC curve of scores, retained (positive) against forgotten (negative).

    0.5: the scores cannot tell a forgotten image from a retained one; 1: they always can.

    Args:
        retained: float [n], n > 0.
        forgotten: float [m], m > 0.
    """
    truth = np.r_[np.ones(len(retained)), np.zeros(len(forgotten))]
    return float(roc_auc_score(truth, np.r_[retained, forgotten]))


def share_above_threshold(retained: NDArray[np.float32], forgotten: NDArray[np.float32]) -> float:
    """Share of forgotten images whose score reaches what 95 % of retained images reach.

    The false positive rate at 95 % true positive rate of out-of-distribution detection
    (Hendrycks and Gimpel, arXiv 1610.02136; FPR95 as in arXiv 1706.02690).
    """
    threshold = np.quantile(retained, 1.0 - RETAINED_PASS_RATE)
    return float(np.mean(forgotten >= threshold))
