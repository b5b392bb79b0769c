"""Low-rank adaptation of query and value, in one projection with the key or in their own.

LoRA (arXiv 2106.09685): W x + (alpha / r) B A dropout(x), with A and B the only trained weights.
The paper adapts query and value with r = 4, alpha = 4 and dropout 0.1. Dropout acts on the
activations, so this is a module and not a parametrisation of the weight.

    add_lora(backbone, rank=4, alpha=4.0, dropout=0.1)   # freezes the backbone
    merged = merge_lora(copy.deepcopy(backbone))          # plain Linear layers again
"""

import copy
import math

import torch
from torch import Tensor, nn

from pfm_edge.model._blocks import Backbone

__all__ = ["LoraLinear", "LoraQkv", "add_lora", "merge_lora"]


class LoraQkv(nn.Module):
    """A frozen fused qkv projection with low-rank updates on its query and value thirds."""

    def __init__(self, qkv: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        third = qkv.out_features // 3
        self.base = qkv
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.query_a = nn.Parameter(torch.empty(rank, qkv.in_features))
        self.query_b = nn.Parameter(torch.zeros(third, rank))
        self.value_a = nn.Parameter(torch.empty(rank, qkv.in_features))
        self.value_b = nn.Parameter(torch.zeros(third, rank))
        for matrix in (self.query_a, self.value_a):
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Project tokens.

        Args:
            x: float [..., D].

        Returns:
            float [..., 3 H d]: query, key, value, as the plain projection gives them.
        """
        query, key, value = self.base(x).chunk(3, dim=-1)
        query = query + self._update(x, self.query_a, self.query_b)
        value = value + self._update(x, self.value_a, self.value_b)
        return torch.cat((query, key, value), dim=-1)

    def merged(self) -> nn.Linear:
        """Fold the updates into one plain Linear layer, W' = W + (alpha / r) B A."""
        linear = nn.Linear(
            self.base.in_features, self.base.out_features, bias=self.base.bias is not None
        )
        third = self.base.out_features // 3
        with torch.no_grad():
            linear.weight.copy_(self.base.weight)
            linear.weight[:third] += self.scale * self.query_b @ self.query_a
            linear.weight[-third:] += self.scale * self.value_b @ self.value_a
            if self.base.bias is not None:
                linear.bias.copy_(self.base.bias)
        return linear

    def _update(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return self.scale * nn.functional.linear(nn.functional.linear(self.dropout(x), a), b)


class LoraLinear(nn.Module):
    """A frozen projection of its own, of queries or values, with a low-rank update."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = linear
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(rank, linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Project tokens, float [..., D] to [..., H d]."""
        update = nn.functional.linear(nn.functional.linear(self.dropout(x), self.a), self.b)
        projected: Tensor = self.base(x) + self.scale * update
        return projected

    def merged(self) -> nn.Linear:
        """Fold the update into one plain Linear layer, W' = W + (alpha / r) B A."""
        linear = copy.deepcopy(self.base)
        with torch.no_grad():
            linear.weight += self.scale * self.b @ self.a
        return linear


def add_lora(backbone: Backbone, *, rank: int, alpha: float, dropout: float) -> None:
    """Freeze the backbone and adapt query and value of every block, in place."""
    backbone.requires_grad_(False)
    for block in backbone.blocks:
        attention = block.attn
        if attention.qkv is not None:
            attention.qkv = LoraQkv(attention.qkv, rank, alpha, dropout)
            continue
        for name in ("q_proj", "v_proj"):
            adapted = LoraLinear(getattr(attention, name), rank, alpha, dropout)
            setattr(attention, name, adapted)
    backbone.train(backbone.training)  # a new module is in training mode, whatever its parent's


def merge_lora(backbone: Backbone) -> Backbone:
    """Replace every adapted projection by a plain Linear layer, in place; returns the backbone."""
    for block in backbone.blocks:
        for name in ("qkv", "q_proj", "v_proj"):
            projection = getattr(block.attn, name, None)
            if isinstance(projection, LoraQkv | LoraLinear):
                setattr(block.attn, name, projection.merged())
    return backbone
