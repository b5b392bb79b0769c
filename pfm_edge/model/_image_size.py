"""Another image size for a backbone that is already made, as an export may ask for.

    set_image_size(backbone, (448, 448))      # in place

Whatever depends on the size is folded into the weights for the new one, as timm does it: position
embeddings and bias tables are resampled, rotations computed anew. Class prompts and what is made of
them do not depend on it.
"""

import math
import os

from pfm_edge.model._backbone import require_embedding, timm_errors
from pfm_edge.model._blocks import Backbone
from pfm_edge.weights import quiet_resampling
from pfm_edge_runtime.errors import ConfigError

__all__ = ["set_image_size"]

# Scores and shares of attention are written out, in float32, for the five images that every graph
# is compared with torch at.
_BYTES_OF_A_SCORE = 2 * 4 * 5


def set_image_size(backbone: Backbone, size: tuple[int, int]) -> None:
    """Let a backbone take images of height and width `size`, in place.

    Raises:
        ConfigError: the size is no multiple of the patches', it is beyond this machine's memory, or
            timm cannot.
    """
    patch = tuple(backbone.patch_embed.patch_size)
    if any(each < 1 or each % step for each, step in zip(size, patch, strict=True)):
        raise ConfigError(
            f"image size {_pixels(size)}: not whole patches of {_pixels(patch)}; the nearest is "
            f"{_pixels(tuple(_nearest(*each) for each in zip(size, patch, strict=True)))}"
        )
    _require_memory(backbone, size, patch)
    with timm_errors(f"cannot take images of {_pixels(size)}", "choose another size"):
        with quiet_resampling():
            backbone.set_input_size(img_size=size)
        require_embedding(f"a backbone for {_pixels(size)}", backbone)


def _require_memory(backbone: Backbone, size: tuple[int, int], patch: tuple[int, ...]) -> None:
    """Refuse at once what would fail after minutes, or be killed without a word."""
    patches = math.prod(each // step for each, step in zip(size, patch, strict=True))
    heads = max((int(block.attn.num_heads) for block in backbone.blocks), default=1)
    needed, there = _BYTES_OF_A_SCORE * heads * patches**2, _memory()
    if needed > there:
        raise ConfigError(
            f"image size {_pixels(size)}: {patches:,} patches, and their attention alone needs "
            f"{needed / 1e9:,.0f} GB of memory where there are {there / 1e9:,.0f}; choose a "
            "smaller size"
        )


def _memory() -> float:
    """Return the bytes of memory of this machine; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


def _pixels(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _nearest(size: int, step: int) -> int:
    return max(1, round(size / step)) * step
