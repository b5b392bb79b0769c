"""The paper's loss: right with its prompt, uniform without.

Source: arXiv 2509.15230 and its authors' code. A step runs two passes over a batch. Each draws one
`subset_size` uniform in 0 ... C-1 for the whole batch, then classes per image:

- *mixed*: the image's own prompt and `subset_size` others, shuffled -> cross-entropy;
- *wrong*: `subset_size` others, without its own -> KL(uniform || p), mean over the batch.

The loss is their sum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pfm_edge.model import PromptedViT

__all__ = ["LossTerms", "draw_banks", "forgettable_loss"]


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The two terms of the loss, each a float32 scalar tensor."""

    cross_entropy: Tensor
    uniformity: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised: the plain sum."""
        return self.cross_entropy + self.uniformity


def draw_banks(
    labels: Tensor, num_classes: int, *, with_own: bool, generator: torch.Generator
) -> Tensor:
    """Draw one bank per image: a common size, classes per image, no loop over images.

    Random keys per (image, class), sorted, give every image a uniform permutation of the classes;
    its own class gets the largest key, so the first entries are a uniform subset of the others.

    Args:
        labels: int64 [B] on the CPU.
        num_classes: C.
        with_own: put the image's own class into its bank, at a random place.
        generator: the CPU generator to draw from.

    Returns:
        int64 [B, subset_size + with_own]; `subset_size` uniform in 0 ... C-1.
    """
    batch = labels.shape[0]
    subset_size = int(torch.randint(num_classes, (1,), generator=generator))
    keys = torch.rand(batch, num_classes, generator=generator)
    keys.scatter_(1, labels[:, None], 2.0)
    banks = keys.argsort(dim=1)[:, :subset_size]
    if not with_own:
        return banks
    banks = torch.cat((labels[:, None], banks), dim=1)
    order = torch.rand(banks.shape, generator=generator).argsort(dim=1)
    return banks.gather(1, order)


def forgettable_loss(
    model: PromptedViT, images: Tensor, labels: Tensor, mixed: Tensor, wrong: Tensor
) -> LossTerms:
    """Compute the loss of one batch for banks already drawn.

    Args:
        model: the model, on the device of all the tensors.
        images: float [B, channels, height, width].
        labels: int64 [B].
        mixed: int64 [B, m + 1], banks that hold the image's own class.
        wrong: int64 [B, m'], banks that do not; m' may be 0.

    Returns:
        The two terms, in float32 whatever the autocast.
    """
    tensors = model.encode()  # once a step: both passes read from it
    logits = [
        model.head(model.embed(images, model.select(tensors, banks))).float()
        for banks in (mixed, wrong)
    ]
    uniform = torch.full_like(logits[1], 1.0 / model.num_classes)
    return LossTerms(
        cross_entropy=functional.cross_entropy(logits[0], labels),
        uniformity=functional.kl_div(
            functional.log_softmax(logits[1], dim=1), uniform, reduction="batchmean"
        ),
    )
