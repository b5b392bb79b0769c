"""A small prompted ViT, a trained run, a publisher: what the toolchain's unit tests take apart."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import VisionTransformer

from pfm_edge.config import BackboneConfig, load_config
from pfm_edge.model import AttentionKind, PromptedViT, create_backbone
from pfm_edge.ota import publish
from pfm_edge.registry import PackageRecord, change_registry
from pfm_edge.training import Run, load_model, train
from tests.support.killed_forget import copied
from tests.support.publisher import Publisher
from tests.support.trained_run import CONFIG, LABELS, MODEL, loaded, make_bundle

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


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Return a repository that has published a bundle."""
    made = Publisher.make(tmp_path)
    publish(made.repository, made.package())
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(1)
    for label in LABELS:
        (root / label).mkdir()
        for number in range(8):
            pixels = draw.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    return root


@pytest.fixture(scope="module", params=["full", "lora"])
def trained(request, images, tmp_path_factory):
    """A directory with `run`, half trained, and `model`, the bundle that was exported from it."""
    root = tmp_path_factory.mktemp(request.param)
    config_file = root / "config.yaml"
    config_file.write_text(CONFIG.format(root=images, kind=request.param))
    config = load_config(config_file, ["training.max_steps=17"])  # of 18: the sixth epoch is torn
    data = loaded(config)
    run = Run.create(root / "run", config, data.labels)
    train(run, data)
    assert run.best.exists()
    (run.path / "evaluation.json").write_text('{"modes": []}')
    (root / "model").mkdir()
    (root / "model" / "bundle.safetensors").write_bytes(
        make_bundle(run, load_model(run)).to_bytes()
    )
    record = PackageRecord(root / "model", MODEL)
    change_registry(run.own_registry, lambda known: known.with_export(record)[0])
    return root


@pytest.fixture
def here(trained, tmp_path):
    return copied(trained, tmp_path / "here").parent
