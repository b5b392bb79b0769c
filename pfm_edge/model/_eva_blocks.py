"""Adapter (b): the blocks of timm's `Eva`.

EVA and EVA-02, DINOv3, the Perception Encoder, RoPE-ViT, Sapiens 2: rotary positions, query, key
and value in one projection or three, grouped keys and values. Patches turn; class and register
tokens and prompts do not.
"""

from typing import Any

import torch
from torch import Tensor

from pfm_edge.model._blocks import (
    NOWHERE,
    Backbone,
    BlockAdapter,
    Embedded,
    Heads,
    Position,
    Rotation,
    head_shape,
    split_fused,
)

__all__ = ["EvaBlocks"]


class EvaBlocks(BlockAdapter):
    """`EvaBlock` and `EvaBlockPostNorm`, with `EvaAttention` or `AttentionRope`."""

    __slots__ = ()

    def embed(self, backbone: Backbone, images: Tensor) -> Embedded:
        """Embed patches; every layer gets the rotation, or its own where they differ."""
        tokens, rotary = backbone._pos_embed(backbone.patch_embed(images))
        tokens = backbone.norm_pre(tokens)
        half = bool(getattr(backbone.blocks[0].attn, "rotate_half", False))
        depth = len(backbone.blocks)
        if rotary is None:
            return Embedded(tokens, (NOWHERE,) * depth)
        by_layer = rotary if backbone.rope_mixed else (rotary,) * depth
        return Embedded(tokens, tuple(Position(Rotation.of(each, half)) for each in by_layer))

    def _project(self, attention: Any, x: Tensor) -> Heads:
        if attention.qkv is None:
            heads = _split_separate(attention, x)
        else:
            qkv = attention.qkv(x)
            bias = getattr(attention, "q_bias", None)  # of EvaAttention; keys have a buffer of 0
            if bias is not None:
                qkv = qkv + torch.cat((bias, attention.k_bias, attention.v_bias))
            heads = split_fused(attention, qkv)
        return Heads(attention.q_norm(heads.query), attention.k_norm(heads.key), heads.value)

    def _scale(self, block: Any, branch: int, out: Tensor) -> Tensor:
        gamma = block.gamma_1 if branch == 1 else block.gamma_2
        return out if gamma is None else gamma * out


def _split_separate(attention: Any, x: Tensor) -> Heads:
    """Project with three matrices; where several heads share a key and a value, give each its own.

    So class inputs have one shape, whatever the grouping.
    """
    batch, count, _ = x.shape
    heads, size = head_shape(attention)
    shared = getattr(attention, "num_kv_heads", heads)

    def split(projected: Tensor, own: int) -> Tensor:
        split = projected.reshape(batch, count, own, size).transpose(1, 2)
        return split if own == heads else split.repeat_interleave(heads // own, dim=1)

    return Heads(
        split(attention.q_proj(x), heads),
        split(attention.k_proj(x), shared),
        split(attention.v_proj(x), shared),
    )
