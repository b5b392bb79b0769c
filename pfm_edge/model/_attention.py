"""How class prompts meet the image: the attention variants `joint` and `prefix`.

A variant owns three things: which class inputs the exported graph has, how prompts become those
class tensors, and how the backbone's blocks read them. Nothing else in the project knows the
difference. Letters: B images, N image tokens, C classes, m prompts in a bank, L layers, H heads,
d head size, D width.

- `joint` (the paper): prompts are tokens of the sequence, `[prompts, CLS, patches]`, without a
  position, and pass through every block with the image.
- `prefix`: each prompt attends to itself alone, so its softmax has one term and its path through
  the network is the same whatever the image. Its keys and values are constants, and image tokens
  attend to them as they attend to each other.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pfm_edge.model._blocks import Backbone, Embedded, Heads, Position, head_shape
from pfm_edge.model._families import adapter_of
from pfm_edge_runtime.manifest import ClassInput

__all__ = ["AttentionKind", "ClassAttention", "class_attention"]

AttentionKind = Literal["joint", "prefix"]


class ClassAttention(Protocol):
    """One attention variant."""

    kind: AttentionKind

    def class_inputs(self, backbone: Backbone) -> tuple[ClassInput, ...]:
        """Describe the class inputs of the graph that come from prompts, in graph order."""
        ...

    def encode(self, backbone: Backbone, prompts: Tensor) -> dict[str, Tensor]:
        """Turn prompts [C, D] into class tensors, each with its class axis, in graph order."""
        ...

    def run_blocks(
        self,
        backbone: Backbone,
        embedded: Embedded,
        tensors: Mapping[str, Tensor],
        fused: bool,
    ) -> Tensor:
        """Run all blocks over image tokens.

        Args:
            backbone: the timm model.
            embedded: the image tokens [B, N, D], and where they are.
            tensors: class tensors with a leading batch axis, [B or 1, ...], in `encode`'s layout.
            fused: PyTorch's fused attention, or explicit MatMul and Softmax for a clean graph.

        Returns:
            float [B, N, D]: the image tokens alone, before the final norm.
        """
        ...


class _JointAttention:
    kind: AttentionKind = "joint"

    def class_inputs(self, backbone: Backbone) -> tuple[ClassInput, ...]:
        return (ClassInput(name="prompts", slice_shape=(backbone.embed_dim,), class_axis=0),)

    def encode(self, backbone: Backbone, prompts: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        return {"prompts": prompts}

    def run_blocks(
        self,
        backbone: Backbone,
        embedded: Embedded,
        tensors: Mapping[str, Tensor],
        fused: bool,
    ) -> Tensor:
        blocks, tokens = adapter_of(backbone), embedded.tokens
        prompts = tensors["prompts"].expand(tokens.shape[0], -1, -1)
        x = torch.cat((prompts.to(tokens.dtype), tokens), dim=1)
        for block, position in zip(backbone.blocks, embedded.positions, strict=True):
            query, key, value = blocks.project(block, x)
            heads = Heads(position.turn(query), position.turn(key), value)
            x = blocks.finish(block, x, _attend(block.attn, heads, position, fused=fused))
        return x[:, prompts.shape[1] :]


class _PrefixAttention:
    kind: AttentionKind = "prefix"

    def class_inputs(self, backbone: Backbone) -> tuple[ClassInput, ...]:
        shape = (len(backbone.blocks), *head_shape(backbone.blocks[0].attn))
        return (
            ClassInput(name="prompt_keys", slice_shape=shape, class_axis=2),
            ClassInput(name="prompt_values", slice_shape=shape, class_axis=2),
        )

    def encode(self, backbone: Backbone, prompts: Tensor) -> dict[str, Tensor]:
        blocks = adapter_of(backbone)
        keys, values = [], []
        x = prompts.unsqueeze(1)  # C sequences of one token: no prompt sees another
        for block in backbone.blocks:
            _, key, value = blocks.project(block, x)
            keys.append(key.squeeze(2).transpose(0, 1))
            values.append(value.squeeze(2).transpose(0, 1))
            # A softmax over one key is 1: what a prompt reads is its own value.
            x = blocks.finish(block, x, value)
        return {"prompt_keys": torch.stack(keys), "prompt_values": torch.stack(values)}

    def run_blocks(
        self,
        backbone: Backbone,
        embedded: Embedded,
        tensors: Mapping[str, Tensor],
        fused: bool,
    ) -> Tensor:
        blocks, x = adapter_of(backbone), embedded.tokens
        batch = x.shape[0]
        layers = zip(backbone.blocks, embedded.positions, strict=True)
        for layer, (block, position) in enumerate(layers):
            query, key, value = blocks.project(block, x)
            prompt_key = tensors["prompt_keys"][:, layer].expand(batch, -1, -1, -1)
            prompt_value = tensors["prompt_values"][:, layer].expand(batch, -1, -1, -1)
            key = torch.cat((prompt_key.to(key.dtype), position.turn(key)), dim=2)
            value = torch.cat((prompt_value.to(value.dtype), value), dim=2)
            heads = Heads(position.turn(query), key, value)
            x = blocks.finish(block, x, _attend(block.attn, heads, position, fused=fused))
        return x


_VARIANTS: dict[AttentionKind, ClassAttention] = {
    variant.kind: variant for variant in (_JointAttention(), _PrefixAttention())
}


def class_attention(kind: AttentionKind) -> ClassAttention:
    """Return the attention variant of that name."""
    return _VARIANTS[kind]


def _attend(attention: Any, heads: Heads, position: Position, *, fused: bool) -> Tensor:
    """Scaled dot-product attention: [B, H, N, d] queries over [B, H, m + N, d] keys and values."""
    query, key, value = heads
    bias = position.bias_for(query.shape[2], key.shape[2])
    if fused:
        rate = attention.attn_drop.p if attention.training else 0.0
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if bias is None else bias.to(query.dtype),
            dropout_p=rate,
            scale=attention.scale,
        )
    weights: Tensor = (query * attention.scale) @ key.transpose(-2, -1)
    if bias is not None:
        weights = weights + bias
    return weights.softmax(dim=-1) @ value
