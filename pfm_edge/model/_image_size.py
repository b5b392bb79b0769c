"""Another image size for a backbone that is already made, as an export may ask for.

    set_image_size(backbone, (448, 448))      # in place

Whatever depends on the size is folded into the weights for the new one, as timm does it: position
embeddings and bias tables are resampled, rotations computed anew. Class prompts and what is made of
them do not depend on it.
"""

import math

from pfm_edge.model._backbone import require_embedding, timm_errors
from pfm_edge.model._blocks import Backbone
from pfm_edge.model._memory import attention_bytes, require_memory
from pfm_edge.weights import quiet_resampling
from pfm_edge_runtime.errors import ConfigError

__all__ = ["set_image_size"]


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
    patches = math.prod(each // step for each, step in zip(size, patch, strict=True))
    require_memory(
        attention_bytes(backbone, queries=patches, keys=patches),
        f"image size {_pixels(size)}: {patches:,} patches, and their attention alone",
        "choose a smaller size",
    )
    with timm_errors(f"cannot take images of {_pixels(size)}", "choose another size"):
        with quiet_resampling():
            backbone.set_input_size(img_size=size)
        require_embedding(f"a backbone for {_pixels(size)}", backbone)


def _pixels(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _nearest(size: int, step: int) -> int:
    return max(1, round(size / step)) * step
