"""Erasing: classes out of a training run, and out of the packages that were exported from it.

class_ids = find_classes(path, ["daisy"])
report = forget_in_run(path, class_ids)
finish_forgetting(path)                  # what a killed one left to do, if anything
"""

from pfm_edge.erasing._classes import find_classes, overdue_classes
from pfm_edge.erasing._packages import redact
from pfm_edge.erasing._run import RunForgotten, finish_forgetting, forget_in_run

__all__ = [
    "RunForgotten",
    "find_classes",
    "finish_forgetting",
    "forget_in_run",
    "overdue_classes",
    "redact",
]
