"""Adapter (c): blocks that add a bias to the scores, by where one token is of another.

BEiT and BEiT v2, and timm's ViTs with relative positions. A bias says where image tokens are of
each other; a prompt is nowhere, so nothing is added where a query or a key is a prompt's. Such a
bias exports in written-out attention alone: fused, it fixes the batch.
"""

from typing import Any

import torch
from torch import Tensor

from pfm_edge.model._blocks import (
    Backbone,
    BlockAdapter,
    Embedded,
    Heads,
    Position,
    split_fused,
)

__all__ = ["BeitBlocks", "RelativeBlocks"]


class BeitBlocks(BlockAdapter):
    """`Block` of `timm.models.beit`: a table for each layer, one for all, or both."""

    __slots__ = ()

    def embed(self, backbone: Backbone, images: Tensor) -> Embedded:
        """Embed patches and positions, and look the biases up; see `BlockAdapter`."""
        tokens = _with_class_token(backbone, backbone.patch_embed(images))
        if backbone.pos_embed is not None:
            tokens = tokens + backbone.pos_embed
        tokens = backbone.pos_drop(tokens)
        shared = None if backbone.rel_pos_bias is None else backbone.rel_pos_bias().unsqueeze(0)
        positions = []
        for block in backbone.blocks:
            bias = shared
            if block.attn.relative_position_bias_table is not None:
                own = block.attn._get_rel_pos_bias()
                bias = own if shared is None else own + shared
            positions.append(Position(bias=bias))
        return Embedded(tokens, tuple(positions))

    def _project(self, attention: Any, x: Tensor) -> Heads:
        qkv = attention.qkv(x)
        if attention.q_bias is not None:  # keys have a buffer of 0
            qkv = qkv + torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        return split_fused(attention, qkv)

    def _read(self, block: Any, x: Tensor, out: Tensor) -> Tensor:  # noqa: ARG002 (nothing to do)
        return out

    def _scale(self, block: Any, branch: int, out: Tensor) -> Tensor:
        gamma = block.gamma_1 if branch == 1 else block.gamma_2
        return out if gamma is None else gamma * out


class RelativeBlocks(BlockAdapter):
    """`RelPosBlock` and `ResPostRelPosBlock`: a table or a small network for each layer or all."""

    __slots__ = ()

    def embed(self, backbone: Backbone, images: Tensor) -> Embedded:
        """Embed patches, and compute the biases; see `BlockAdapter`."""
        tokens = backbone.patch_embed(images)
        if backbone.cls_token is not None:
            tokens = _with_class_token(backbone, tokens)
        shared = None if backbone.shared_rel_pos is None else backbone.shared_rel_pos.get_bias()
        positions = []
        for block in backbone.blocks:
            own = block.attn.rel_pos
            positions.append(Position(bias=shared if own is None else own.get_bias()))
        return Embedded(tokens, tuple(positions))

    def _project(self, attention: Any, x: Tensor) -> Heads:
        query, key, value = split_fused(attention, attention.qkv(x))
        return Heads(attention.q_norm(query), attention.k_norm(key), value)

    def _read(self, block: Any, x: Tensor, out: Tensor) -> Tensor:  # noqa: ARG002 (nothing to do)
        return out

    def _scale(self, block: Any, branch: int, out: Tensor) -> Tensor:
        scaled: Tensor = block.ls1(out) if branch == 1 else block.ls2(out)
        return scaled


def _with_class_token(backbone: Backbone, patches: Tensor) -> Tensor:
    return torch.cat((backbone.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1)
