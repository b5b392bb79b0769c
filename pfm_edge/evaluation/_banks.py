"""Running a model over a split with many banks: images are decoded once, then every bank is run."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pfm_edge.model import PromptedViT

__all__ = ["Advance", "Images", "all_but", "for_each_bank", "logits_of"]


class Images(Protocol):
    """Labelled images: a split, or a part of one."""

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [n]."""
        ...

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """Return the images of indices int64 [b]: float32 [b, channels, height, width]."""
        ...


Advance = Callable[[int], None]
"""Called with the number of (image, bank) passes just done; None is silence."""

_BATCH = 256


@torch.inference_mode()
def for_each_bank(
    model: PromptedViT,
    split: Images,
    banks: Sequence[Tensor],
    use: Callable[[int, slice, Tensor], None],
    advance: Advance | None = None,
) -> None:
    """Run every bank over every image.

    Args:
        model: the model; put into eval mode.
        split: n images.
        banks: each int64 [m] for all images, or [n, m] for each its own, on the CPU.
        use: called with (bank number, rows of the split, float32 [rows, C] logits on the CPU).
        advance: progress, in images done per bank.
    """
    model.eval()
    device = model.prompts.device
    tensors = model.encode()
    for start in range(0, len(split), _BATCH):
        rows = slice(start, min(start + _BATCH, len(split)))
        images = split.images(torch.arange(rows.start, rows.stop)).to(device)
        for number, bank in enumerate(banks):
            own = bank[rows] if bank.ndim == 2 else bank  # noqa: PLR2004 ([n, m])
            selected = model.select(tensors, own.to(device))
            logits = model.head(model.embed(images, selected))
            use(number, rows, logits.float().cpu())
            if advance is not None:
                advance(rows.stop - rows.start)


def logits_of(
    model: PromptedViT,
    split: Images,
    banks: Sequence[Tensor],
    advance: Advance | None = None,
) -> Tensor:
    """Collect the logits of a few banks: float32 [len(banks), n, C]."""
    out = torch.empty(len(banks), len(split), model.num_classes)

    def keep(number: int, rows: slice, logits: Tensor) -> None:
        out[number, rows] = logits

    for_each_bank(model, split, banks, keep, advance)
    return out


def all_but(excluded: Tensor, num_classes: int) -> Tensor:
    """For each image, all classes but one.

    Args:
        excluded: int64 [n].
        num_classes: C.

    Returns:
        int64 [n, C-1], ascending.
    """
    shift = torch.arange(num_classes - 1).expand(len(excluded), -1)
    return shift + (shift >= excluded[:, None]).long()
