"""Class prompts are secrets: they come from the operating system, not from the run's seed.

Whoever knows a seed can draw the same numbers again, and with them a prompt that was deleted.
"""

import math
import os

import numpy as np
import torch
from torch import Tensor

__all__ = ["draw_prompts"]


def draw_prompts(count: int, width: int) -> Tensor:
    """Draw standard normal prompts straight from the operating system's random source.

    Inverse transform sampling: z = sqrt(2) * erfinv(2u - 1), u uniform on the midpoints of
    2^53 equal cells of (0, 1), in float64.

    Args:
        count: number of classes C.
        width: token width D.

    Returns:
        float32 [C, D].
    """
    words = np.frombuffer(os.urandom(8 * count * width), dtype="<u8") >> np.uint64(11)
    uniform = (torch.from_numpy(words.astype(np.float64)) + 0.5) / 2**53
    normal = math.sqrt(2.0) * torch.erfinv(2.0 * uniform - 1.0)
    return normal.reshape(count, width).float()
