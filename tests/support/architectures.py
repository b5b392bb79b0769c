"""Small members of every supported family, as timm makes them, with weights that matter.

Two layers, 32 x 32 pixels and sixteen patches; what makes a family what it is stays timm's. Fresh
weights hide errors (layer scales of 1e-5, bias tables of zeros, registers of 1e-6), so all are
drawn anew, with a spread that lets each move the embedding::

    for case in ARCHITECTURES:
        backbone = case.backbone()
"""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from pfm_edge.config import BackboneConfig
from pfm_edge.model import Backbone, create_backbone

__all__ = ["ARCHITECTURES", "Architecture", "randomise"]

_SMALL: dict[str, object] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
}


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """One architecture, made small.

    Attributes:
        name: what it is called here.
        model: timm's name.
        covers: what it is in the list for.
        arguments: on top of the small size.
        swept: whether each test run exports it, or compares it with timm in torch alone.
    """

    name: str
    model: str
    covers: str
    arguments: dict[str, object] = field(default_factory=dict)
    swept: bool = True

    @property
    def config(self) -> BackboneConfig:
        """The configuration that makes it."""
        return BackboneConfig(model=self.model, arguments=_SMALL | self.arguments)

    def backbone(self, seed: int = 0) -> Backbone:
        """Make it, with weights that matter."""
        return randomise(create_backbone(self.config), seed)

    def __str__(self) -> str:
        return self.name


def randomise(backbone: Backbone, seed: int = 0) -> Backbone:
    """Draw every weight anew, in place, so that none is inert."""
    draw = torch.Generator().manual_seed(seed)

    def spread(parameter: torch.Tensor, low: float, high: float) -> None:
        parameter.copy_(torch.rand(parameter.shape, generator=draw) * (high - low) + low)

    with torch.no_grad():
        for name, parameter in sorted(backbone.named_parameters()):
            if "gamma" in name or ("norm" in name and name.endswith("weight")):
                spread(parameter, 0.5, 1.5)
            elif name.endswith("weight") and parameter.ndim > 1:
                std = math.sqrt(parameter.shape[0] / parameter.numel())
                nn.init.normal_(parameter, std=std, generator=draw)
            else:  # biases, tokens, positions, tables, frequencies
                nn.init.normal_(parameter, std=0.5, generator=draw)
    return backbone


ARCHITECTURES = (
    Architecture("ViT", "vit_tiny_patch16_224", "class token", swept=False),
    Architecture(
        "ViT, normalised",
        "vit_tiny_patch16_224",
        "normalised queries, keys, heads and MLP",
        {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True},
    ),
    Architecture(
        "ViT, post-norm", "vit_base_patch16_rpn_224", "norms after the branches", swept=False
    ),
    Architecture("DeiT, distilled", "deit_tiny_distilled_patch16_224", "mean of two tokens"),
    Architecture("DeiT III", "deit3_small_patch16_224", "class token without position"),
    Architecture("DINOv2", "vit_small_patch14_dinov2", "layer scale", swept=False),
    Architecture("DINOv2, registers", "vit_small_patch14_reg4_dinov2", "registers"),
    Architecture("DINOv2, giant", "vit_giant_patch14_dinov2", "packed SwiGLU"),
    Architecture(
        "CLIP", "vit_base_patch32_clip_quickgelu_224", "norm before the blocks, QuickGELU"
    ),
    Architecture("SigLIP", "vit_base_patch16_siglip_224", "attention pooling, no class token"),
    Architecture(
        "ViT, registers, mean", "vit_medium_patch16_reg4_gap_256", "average pooling", swept=False
    ),
    Architecture("AIMv2", "aimv2_large_patch14_224", "RMS norms, SwiGLU, no biases"),
    Architecture(
        "EVA-02", "eva02_tiny_patch14_224", "rotary positions, one projection, SwiGLU", swept=False
    ),
    Architecture(
        "EVA-02, base", "eva02_base_patch14_224", "rotary positions, three projections, SwiGLU"
    ),
    Architecture(
        "EVA-02, enormous",
        "eva02_enormous_patch14_clip_224",
        "norms after the branches",
        swept=False,
    ),
    Architecture("DINOv3", "vit_small_patch16_dinov3", "rotary halves, registers", swept=False),
    Architecture("DINOv3, biases", "vit_small_plus_patch16_dinov3_qkvb", "biases, SwiGLU"),
    Architecture(
        "Perception Encoder", "vit_pe_core_tiny_patch16_384", "rotary positions, attention pooling"
    ),
    Architecture(
        "RoPE-ViT", "vit_base_patch16_rope_reg1_gap_256", "rotary positions, mean", swept=False
    ),
    Architecture(
        "RoPE-ViT, mixed", "vit_small_patch16_rope_mixed_224", "a rotation for each layer and head"
    ),
    Architecture(
        "Sapiens 2",
        "vit_base_patch16_sapiens2",
        "grouped keys and values",
        {"num_kv_heads": [1, 2]},
        swept=False,
    ),
    Architecture("BEiT", "beit_base_patch16_224", "a bias table for each layer"),
    Architecture(
        "BEiT, shared",
        "beitv2_base_patch16_224",
        "a bias table for all layers besides, and positions",
        {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True},
        swept=False,
    ),
    Architecture("ViT, relative", "vit_relpos_base_patch16_cls_224", "biases by a small network"),
    Architecture(
        "ViT, relative, shared",
        "vit_srelpos_small_patch16_224",
        "one bias table, no class token",
        {"rel_pos_type": "bias"},
        swept=False,
    ),
    Architecture(
        "ViT, relative, post-norm",
        "vit_relpos_small_patch16_rpn_224",
        "norms after the branches",
        swept=False,
    ),
)
