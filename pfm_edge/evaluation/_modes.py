"""The inference modes of the paper's code: which prompts an image is shown.

*Oracle* modes pick prompts by the true label. They explain what the model learnt and are no result:
nobody has the label at inference. *Deployable* modes are what a device can do; *diagnostic* ones do
not look at the label, but nobody would deploy them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pfm_edge.evaluation._banks import Advance, Images, all_but, logits_of
from pfm_edge.model import PromptedViT

__all__ = ["ModeRow", "inference_modes", "mode_names"]


ModeKind = Literal["deployable", "diagnostic", "oracle"]


@dataclass(frozen=True, slots=True)
class ModeRow:
    """One mode: accuracy over all C logits and mean largest softmax, both in 0 ... 1."""

    mode: str
    kind: ModeKind
    accuracy: float
    confidence: float


_Banks = Callable[[Tensor, int, torch.Generator], Tensor]


def _own_and(labels: Tensor, others: Tensor) -> Tensor:
    return torch.cat((labels[:, None], others), dim=1)


def _some_wrong(labels: Tensor, classes: int, draw: torch.Generator, count: int) -> Tensor:
    keys = torch.rand(len(labels), classes, generator=draw)
    return keys.scatter_(1, labels[:, None], 2.0).argsort(dim=1)[:, :count]


def _size(classes: int, draw: torch.Generator) -> int:
    return int(torch.randint(classes, (1,), generator=draw))


_BLIND: dict[str, _Banks] = {
    "full_bank": lambda labels, classes, draw: torch.arange(classes),  # noqa: ARG005
    "full_bank_shuffle": lambda labels, classes, draw: torch.randperm(classes, generator=draw),  # noqa: ARG005
    "none": lambda labels, classes, draw: torch.empty(0, dtype=torch.int64),  # noqa: ARG005
}
_ORACLE: dict[str, _Banks] = {
    "match_only": lambda labels, classes, draw: labels[:, None],  # noqa: ARG005
    "mixed_subset": lambda labels, classes, draw: _own_and(
        labels, _some_wrong(labels, classes, draw, _size(classes, draw))
    ),
    "all_wrong": lambda labels, classes, draw: all_but(labels, classes),  # noqa: ARG005
    "wrong_subset": lambda labels, classes, draw: _some_wrong(
        labels, classes, draw, _size(classes, draw)
    ),
    "random_wrong": lambda labels, classes, draw: _some_wrong(labels, classes, draw, 1),
}


def mode_names(num_classes: int) -> list[str]:
    """All modes, deployable ones first."""
    singles = [f"class_{index}" for index in range(num_classes)]
    return [*_BLIND, "infer_best", *singles, *_ORACLE]


def inference_modes(
    model: PromptedViT,
    split: Images,
    *,
    seed: int,
    advance: Advance | None = None,
) -> list[ModeRow]:
    """Measure every mode.

    `class_<i>` shows prompt i alone, whatever the image; `infer_best` takes those C passes and
    follows the one with the largest logit.

    Args:
        model: any device; left in eval mode.
        split: held-out images.
        seed: of the modes that draw banks.
        advance: progress, in images per bank.
    """
    classes, labels = model.num_classes, split.labels
    draw = torch.Generator().manual_seed(seed)
    named = {**_BLIND, **_ORACLE}
    banks = {name: make(labels, classes, draw) for name, make in named.items()}
    banks |= {f"class_{index}": torch.tensor([index]) for index in range(classes)}
    stacked = logits_of(model, split, list(banks.values()), advance)
    logits = dict(zip(banks, stacked, strict=True))
    singles = torch.stack([logits[f"class_{index}"] for index in range(classes)], dim=1)
    best = singles.amax(dim=2).argmax(dim=1)  # [n]: the pass whose largest logit is largest
    logits["infer_best"] = singles[torch.arange(len(labels)), best]
    return [_row(name, logits[name], labels) for name in mode_names(classes)]


def _kind(name: str) -> ModeKind:
    if name in _ORACLE:
        return "oracle"
    return "deployable" if name in {"full_bank", "infer_best", "none"} else "diagnostic"


def _row(name: str, logits: Tensor, labels: Tensor) -> ModeRow:
    return ModeRow(
        mode=name,
        kind=_kind(name),
        accuracy=float((logits.argmax(1) == labels).float().mean()),
        confidence=float(logits.softmax(1).amax(1).mean()),
    )
