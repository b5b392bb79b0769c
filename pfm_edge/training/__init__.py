"""Training: the paper's loss, the loop, run directories and their checkpoints.

run = Run.create(Path("runs/digits"), config, data.labels)
train(run, data, progress=hook)
model = load_model(run)
"""

from pfm_edge.training._checkpoint import drop_classes, is_checkpoint
from pfm_edge.training._lock import alone, in_use
from pfm_edge.training._loss import LossTerms, draw_banks, forgettable_loss
from pfm_edge.training._metrics import read_metrics
from pfm_edge.training._run import ClassRecord, Run
from pfm_edge.training._trainer import (
    Progress,
    TrainingEvent,
    load_model,
    train,
    training_device,
)

__all__ = [
    "ClassRecord",
    "LossTerms",
    "Progress",
    "Run",
    "TrainingEvent",
    "alone",
    "draw_banks",
    "drop_classes",
    "forgettable_loss",
    "in_use",
    "is_checkpoint",
    "load_model",
    "read_metrics",
    "train",
    "training_device",
]
