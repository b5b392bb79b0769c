"""How class prompts meet the image: the attention variants `joint` and `prefix`.

A variant owns three things: which class inputs the exported graph has, how prompts become those
class tensors, and how the backbone's blocks read them. Nothing else in the project knows the
difference. Letters: B images, N image tokens, C classes, m prompts in a bank, L layers, H heads,
d head size, D width.

- `joint` (the paper): prompts are tokens of the sequence, `[prompts, CLS, patches]`, without a
  position embedding, and pass through every block with the image.
- `prefix`: each prompt attends to itself alone, so its softmax has one term and its path through
  the network is the same whatever the image. Its keys and values are constants, and image tokens
  attend to them as they attend to each other.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from timm.models import VisionTransformer
from timm.models.vision_transformer import Attention, Block
from torch import Tensor
from torch.nn import functional

from pfm_edge_runtime.manifest import ClassInput

__all__ = ["AttentionKind", "ClassAttention", "class_attention"]

AttentionKind = Literal["joint", "prefix"]


class ClassAttention(Protocol):
    """One attention variant."""

    kind: AttentionKind

    def class_inputs(self, backbone: VisionTransformer) -> tuple[ClassInput, ...]:
        """Describe the class inputs of the graph that come from prompts, in graph order."""
        ...

    def encode(self, backbone: VisionTransformer, prompts: Tensor) -> dict[str, Tensor]:
        """Turn prompts [C, D] into class tensors, each with its class axis, in graph order."""
        ...

    def run_blocks(
        self,
        backbone: VisionTransformer,
        tokens: Tensor,
        tensors: Mapping[str, Tensor],
        fused: bool,
    ) -> Tensor:
        """Run all blocks over image tokens.

        Args:
            backbone: the timm model.
            tokens: float [B, N, D], positions embedded.
            tensors: class tensors with a leading batch axis, [B or 1, ...], in `encode`'s layout.
            fused: PyTorch's fused attention, or explicit MatMul and Softmax for a clean graph.

        Returns:
            float [B, N, D]: the image tokens alone, before the final norm.
        """
        ...


class _JointAttention:
    kind: AttentionKind = "joint"

    def class_inputs(self, backbone: VisionTransformer) -> tuple[ClassInput, ...]:
        return (ClassInput(name="prompts", slice_shape=(backbone.embed_dim,), class_axis=0),)

    def encode(self, backbone: VisionTransformer, prompts: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        return {"prompts": prompts}

    def run_blocks(
        self,
        backbone: VisionTransformer,
        tokens: Tensor,
        tensors: Mapping[str, Tensor],
        fused: bool,
    ) -> Tensor:
        prompts = tensors["prompts"].expand(tokens.shape[0], -1, -1)
        x = torch.cat((prompts.to(tokens.dtype), tokens), dim=1)
        for block in backbone.blocks:
            query, key, value = _project(block.attn, block.norm1(x))
            x = _finish(block, x, _attend(block.attn, query, key, value, fused=fused))
        return x[:, prompts.shape[1] :]


class _PrefixAttention:
    kind: AttentionKind = "prefix"

    def class_inputs(self, backbone: VisionTransformer) -> tuple[ClassInput, ...]:
        attention = backbone.blocks[0].attn
        shape = (len(backbone.blocks), attention.num_heads, attention.head_dim)
        return (
            ClassInput(name="prompt_keys", slice_shape=shape, class_axis=2),
            ClassInput(name="prompt_values", slice_shape=shape, class_axis=2),
        )

    def encode(self, backbone: VisionTransformer, prompts: Tensor) -> dict[str, Tensor]:
        keys, values = [], []
        x = prompts.unsqueeze(1)  # C sequences of one token: no prompt sees another
        for block in backbone.blocks:
            _, key, value = _project(block.attn, block.norm1(x))
            keys.append(key.squeeze(2).transpose(0, 1))
            values.append(value.squeeze(2).transpose(0, 1))
            # A softmax over one key is 1: what a prompt reads is its own value.
            x = _finish(block, x, value)
        return {"prompt_keys": torch.stack(keys), "prompt_values": torch.stack(values)}

    def run_blocks(
        self,
        backbone: VisionTransformer,
        tokens: Tensor,
        tensors: Mapping[str, Tensor],
        fused: bool,
    ) -> Tensor:
        x = tokens
        batch = x.shape[0]
        for layer, block in enumerate(backbone.blocks):
            query, key, value = _project(block.attn, block.norm1(x))
            prompt_key = tensors["prompt_keys"][:, layer].expand(batch, -1, -1, -1)
            prompt_value = tensors["prompt_values"][:, layer].expand(batch, -1, -1, -1)
            key = torch.cat((prompt_key.to(key.dtype), key), dim=2)
            value = torch.cat((prompt_value.to(value.dtype), value), dim=2)
            x = _finish(block, x, _attend(block.attn, query, key, value, fused=fused))
        return x


_VARIANTS: dict[AttentionKind, ClassAttention] = {
    variant.kind: variant for variant in (_JointAttention(), _PrefixAttention())
}


def class_attention(kind: AttentionKind) -> ClassAttention:
    """Return the attention variant of that name."""
    return _VARIANTS[kind]


def _project(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project normed tokens [B, N, D] to query, key and value, each [B, H, N, d]."""
    batch, count, _ = x.shape
    qkv = attention.qkv(x).reshape(batch, count, 3, attention.num_heads, attention.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(query), attention.k_norm(key), value


def _attend(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, *, fused: bool
) -> Tensor:
    """Scaled dot-product attention: [B, H, N, d] queries over [B, H, m + N, d] keys and values."""
    if fused:
        rate = attention.attn_drop.p if attention.training else 0.0
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=rate, scale=attention.scale
        )
    weights: Tensor = (query * attention.scale) @ key.transpose(-2, -1)
    return weights.softmax(dim=-1) @ value


def _finish(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    """Complete a block: output projection and residual, then the MLP and residual.

    Args:
        block: timm's pre-norm block.
        x: float [B, N, D], the block's input.
        attended: float [B, H, N, d], what attention read.
    """
    attention = block.attn
    batch, _, count, _ = attended.shape
    out = attended.transpose(1, 2).reshape(batch, count, attention.attn_dim)
    out = attention.norm(out)
    if attention.gate is not None:
        out = out * attention.gate(block.norm1(x)).sigmoid()
    out = attention.proj_drop(attention.proj(out))
    x = x + block.drop_path1(block.ls1(out))
    finished: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return finished
