"""Evaluation: does the model know its classes, and what is left of one whose prompt is gone.

metrics = epoch_metrics(model, data.test, seed=0)      # every epoch: three figures
report = evaluate(model, data.test, seed=0)            # the whole metric, and every mode
"""

from pfm_edge.evaluation._epoch import EpochMetrics, epoch_metrics
from pfm_edge.evaluation._forgetting import ForgettingRow, forgetting_metric
from pfm_edge.evaluation._modes import ModeRow, inference_modes
from pfm_edge.evaluation._report import EvaluationReport, evaluate
from pfm_edge.evaluation._scores import auroc, share_above_threshold

__all__ = [
    "EpochMetrics",
    "EvaluationReport",
    "ForgettingRow",
    "ModeRow",
    "auroc",
    "epoch_metrics",
    "evaluate",
    "forgetting_metric",
    "inference_modes",
    "share_above_threshold",
]
