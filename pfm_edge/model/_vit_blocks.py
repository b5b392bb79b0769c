"""Adapter (a): the blocks of timm's `VisionTransformer`.

ViT, DeiT (distilled too), DeiT III, DINOv2 with and without registers, CLIP, SigLIP, AIMv2: class
token or none, registers, layer scale, SwiGLU, normalised queries and keys. Positions are added to
the tokens, so attention knows nothing of them.
"""

from typing import Any

from torch import Tensor

from pfm_edge.model._blocks import (
    NOWHERE,
    Backbone,
    BlockAdapter,
    Embedded,
    Heads,
    split_fused,
)

__all__ = ["VitBlocks"]


class VitBlocks(BlockAdapter):
    """`Block` and `ResPostBlock` of `timm.models.vision_transformer`, with its `Attention`."""

    __slots__ = ()

    def embed(self, backbone: Backbone, images: Tensor) -> Embedded:
        """Embed patches and positions; see `BlockAdapter`."""
        tokens = backbone._pos_embed(backbone.patch_embed(images))
        tokens = backbone.norm_pre(backbone.patch_drop(tokens))
        return Embedded(tokens, (NOWHERE,) * len(backbone.blocks))

    def _project(self, attention: Any, x: Tensor) -> Heads:
        query, key, value = split_fused(attention, attention.qkv(x))
        return Heads(attention.q_norm(query), attention.k_norm(key), value)

    def _scale(self, block: Any, branch: int, out: Tensor) -> Tensor:
        scaled: Tensor = block.ls1(out) if branch == 1 else block.ls2(out)
        return scaled
