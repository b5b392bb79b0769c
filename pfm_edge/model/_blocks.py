"""What the attention variants need of a backbone of any family: the block adapters' interface.

`joint` and `prefix` are written once, over four steps that each family of timm's blocks does in
its own way: embed the image, project tokens to query, key and value, finish a block, and say where
tokens are. Letters: B images, N image tokens, P of them patches (the last ones), H heads, d head
size, D width.

    blocks = adapter_of(backbone)
    embedded = blocks.embed(backbone, images)
    for block, position in zip(backbone.blocks, embedded.positions, strict=True):
        heads = blocks.project(block, x)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from timm.layers import apply_rot_embed
from torch import Tensor
from torch.nn import functional

__all__ = [
    "NOWHERE",
    "Backbone",
    "BlockAdapter",
    "Embedded",
    "Heads",
    "Position",
    "Rotation",
    "head_shape",
    "split_fused",
]

Backbone: TypeAlias = Any
"""A timm vision transformer of a supported family; timm's own annotations contradict its code."""


class Heads(NamedTuple):
    """Query, key and value of every head, each float [B, H, N, d]."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True, slots=True)
class Rotation:
    """How queries and keys of patches turn; class and register tokens and prompts do not.

    Attributes:
        sines: float [P, d], or [H, P, d] where heads turn differently.
        cosines: as `sines`.
        half: whether halves of a head turn against each other, or neighbours.
    """

    sines: Tensor
    cosines: Tensor
    half: bool

    @classmethod
    def of(cls, rotary: Tensor, half: bool) -> "Rotation":
        """Take timm's float [..., P, 2 d], sines then cosines, apart."""
        size = rotary.shape[-1] // 2
        return cls(rotary[..., :size], rotary[..., size:], half)

    def turn(self, heads: Tensor) -> Tensor:
        """Turn the last P of float [B, H, any, d] tokens; what stands before them stays."""
        patches = self.sines.shape[-2]
        turned = apply_rot_embed(heads[:, :, -patches:], self.sines, self.cosines, half=self.half)
        return torch.cat((heads[:, :, :-patches], turned.to(heads.dtype)), dim=2)


@dataclass(frozen=True, slots=True)
class Position:
    """What the attention of one layer knows of where image tokens are. Prompts are nowhere.

    Attributes:
        rotation: how queries and keys turn before they meet.
        bias: float [1, H, N, N], added to the scores.
    """

    rotation: Rotation | None = None
    bias: Tensor | None = None

    def turn(self, heads: Tensor) -> Tensor:
        """Turn float [B, H, any, d] queries or keys, of which the last are the patches'."""
        return heads if self.rotation is None else self.rotation.turn(heads)

    def bias_for(self, queries: int, keys: int) -> Tensor | None:
        """Return float [1, H, queries, keys] to add to the scores: nothing where a prompt is met.

        Image tokens are the last N of either axis.
        """
        if self.bias is None:
            return None
        count = self.bias.shape[-1]
        return functional.pad(self.bias, (keys - count, 0, queries - count, 0))


NOWHERE = Position()
"""Positions are in the tokens alone."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """An image batch before the first block.

    Attributes:
        tokens: float [B, N, D], positions embedded where the model embeds them.
        positions: what each layer's attention knows besides, one for every block.
    """

    tokens: Tensor
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class BlockAdapter(ABC):
    """One family of timm's transformer blocks.

    Attributes:
        post_norm: whether a block normalises what a branch gives, and not what it takes.
    """

    post_norm: bool = False

    @abstractmethod
    def embed(self, backbone: Backbone, images: Tensor) -> Embedded:
        """Turn float [B, channels, height, width] images into what the first block takes."""

    @abstractmethod
    def _project(self, attention: Any, x: Tensor) -> Heads:
        """Project what attention takes, float [B, N, D], to heads; without rotation."""

    @abstractmethod
    def _scale(self, block: Any, branch: int, out: Tensor) -> Tensor:
        """Scale what branch 1 (attention) or 2 (MLP) of a pre-norm block gives."""

    def _read(self, block: Any, x: Tensor, out: Tensor) -> Tensor:
        """Normalise and gate what the heads read, before the output projection.

        Args:
            block: timm's.
            x: float [B, N, D], the block's input.
            out: float [B, N, H d], what the heads read.
        """
        out = block.attn.norm(out)
        gate = getattr(block.attn, "gate", None)
        return out if gate is None else out * gate(self._taken(block, 1, x)).sigmoid()

    def project(self, block: Any, x: Tensor) -> Heads:
        """Project a block's input, float [B, N, D], to query, key and value; without rotation."""
        return self._project(block.attn, self._taken(block, 1, x))

    def finish(self, block: Any, x: Tensor, attended: Tensor) -> Tensor:
        """Complete a block: output projection and residual, then the MLP and residual.

        Args:
            block: timm's.
            x: float [B, N, D], the block's input.
            attended: float [B, H, N, d], what attention read.
        """
        attention = block.attn
        out = self._read(block, x, attended.transpose(1, 2).flatten(2))
        out = attention.proj_drop(attention.proj(out))
        x = x + block.drop_path1(self._given(block, 1, out))
        out = block.mlp(self._taken(block, 2, x))
        finished: Tensor = x + block.drop_path2(self._given(block, 2, out))
        return finished

    def _taken(self, block: Any, branch: int, x: Tensor) -> Tensor:
        """Return what a branch takes of a block's residual stream."""
        return x if self.post_norm else _norm(block, branch)(x)

    def _given(self, block: Any, branch: int, out: Tensor) -> Tensor:
        """Return what is added to the residual stream of what a branch gives."""
        return _norm(block, branch)(out) if self.post_norm else self._scale(block, branch, out)


def _norm(block: Any, branch: int) -> Callable[[Tensor], Tensor]:
    norm: Callable[[Tensor], Tensor] = block.norm1 if branch == 1 else block.norm2
    return norm


def head_shape(attention: Any) -> tuple[int, int]:
    """Return the number of heads and their size, whatever the attention is called."""
    heads = int(attention.num_heads)
    return heads, int(attention.proj.in_features) // heads


def split_fused(attention: Any, qkv: Tensor) -> Heads:
    """Split float [B, N, 3 H d], queries first, into heads."""
    batch, count, _ = qkv.shape
    heads, size = head_shape(attention)
    split = qkv.reshape(batch, count, 3, heads, size).permute(2, 0, 3, 1, 4)
    return Heads(*split.unbind(0))
