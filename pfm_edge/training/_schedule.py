"""Learning-rate schedule: linear warm-up, then constant or a half cosine to zero.

Cosine annealing without restarts: Loshchilov and Hutter, arXiv 1608.03983.
"""

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Schedule"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate for every optimiser step, a pure function of the step."""

    peak: float
    warmup_steps: int
    total_steps: int
    shape: Literal["cosine", "constant"]

    def at(self, step: int) -> float:
        """Return the learning rate of optimiser step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        span = max(1, self.total_steps - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * progress))
