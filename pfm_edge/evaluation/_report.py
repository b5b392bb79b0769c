"""The whole evaluation as one value, and its JSON."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pfm_edge.evaluation._banks import Images
from pfm_edge.evaluation._forgetting import (
    ForgettingRow,
    forgetting_metric,
    removal_counts,
    removed_subsets,
)
from pfm_edge.evaluation._modes import ModeRow, inference_modes, mode_names
from pfm_edge.model import PromptedViT

__all__ = ["EvaluationReport", "evaluate"]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What `pfm-edge evaluate` measures on held-out images."""

    attention: str
    images: int
    chance: float
    forgetting: tuple[ForgettingRow, ...]
    modes: tuple[ModeRow, ...]

    def mode(self, name: str) -> ModeRow:
        """Return one mode's row."""
        return next(row for row in self.modes if row.mode == name)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object; the claim level is what metrics can support at most."""
        return {"claim_level": "L0", **{k: _finite(v) for k, v in asdict(self).items()}}


def evaluate(
    model: PromptedViT,
    split: Images,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Measure forgetting in both conventions, and every inference mode.

    Args:
        model: any device; left in eval mode.
        split: held-out images, every class among them.
        seed: of sampled subsets and drawn banks.
        progress: called with (passes done, passes in all), a pass being one image with one bank.
    """
    classes = model.num_classes
    subsets = sum(len(removed_subsets(classes, k, seed=seed)) for k in removal_counts(classes))
    total = len(split) * (subsets + len(mode_names(classes)) - 1)  # infer_best reuses class_<i>
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return EvaluationReport(
        attention=model.attention.kind,
        images=len(split),
        chance=1.0 / classes,
        forgetting=tuple(forgetting_metric(model, split, seed=seed, advance=advance)),
        modes=tuple(inference_modes(model, split, seed=seed, advance=advance)),
    )


def _finite(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
