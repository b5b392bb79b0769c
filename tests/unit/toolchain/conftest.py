"""A small prompted ViT, made once: what the toolchain's unit tests train, mask and take apart."""

import os
from collections.abc import Callable

import pytest
import torch
from timm.models import VisionTransformer

from pfm_edge.config import BackboneConfig
from pfm_edge.model import AttentionKind, PromptedViT, create_backbone

SMALL = {
    "img_size": 8,
    "patch_size": 2,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 4,
    "in_chans": 1,
    "init_values": 1e-5,
    "qk_norm": True,
}


def small_backbone(**arguments: object) -> VisionTransformer:
    """A ViT with layer scale and q/k norms, its scales randomised: fresh ones hide every error."""
    torch.manual_seed(0)
    backbone = create_backbone(
        BackboneConfig(model="vit_tiny_patch16_224", arguments=SMALL | arguments)
    )
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "gamma" in name or "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return backbone


@pytest.fixture
def make_model() -> Callable[..., PromptedViT]:
    def make(attention: AttentionKind, classes: int = 5, **arguments: object) -> PromptedViT:
        model = PromptedViT(small_backbone(**arguments), attention, classes).eval()
        with torch.no_grad():
            model.head.weight.normal_(std=0.3)
            model.head.bias.normal_()
        return model

    return make


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait for the disk: a repository is synced a hundred times by a test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
