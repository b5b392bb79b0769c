"""Every random draw of training is a function of (seed, purpose, step): resume is exact by design.

No generator state is carried from step to step, so none has to be stored: step 700 draws the same
numbers whether the process started at step 0 or at step 699. Prompts are the exception: they
come from the operating system (see pfm_edge.model.draw_prompts).
"""

import hashlib

import torch
from torch import Tensor

__all__ = ["derive_seed", "epoch_order", "generator"]


def derive_seed(seed: int, purpose: str, number: int) -> int:
    """Derive an independent 63-bit seed: the head of SHA-256 over "seed/purpose/number"."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """Make a CPU generator for one purpose at one step."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, number))


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which an epoch visits its images: int64 [count], a permutation."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))
