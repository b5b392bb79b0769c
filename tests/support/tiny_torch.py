"""Two tiny torch transformers with class inputs, as an exporter gets them from the toolchain.

Two layers of width 16 over four 4x4 patches; every parameter is drawn with a spread that lets it
matter, so that parity and dropped classes are visible. `prefix` adds a key and a value per class
and layer, `joint` a token per class::

    source = prefix_source()
    prefix_graph()                  # its ONNX file, exported once per test run
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pfm_edge_exporters import OnnxFromTorch, TorchSource, compute_model_id
from pfm_edge_runtime.manifest import ClassInput, ImageInput, Preprocessing

WIDTH, HEADS, LAYERS, SIDE, PATCH = 16, 2, 2, 8, 4
HEAD_WIDTH = WIDTH // HEADS

IMAGE = ImageInput("image", (1, SIDE, SIDE))
PREPROCESSING = Preprocessing("L", SIDE, "bicubic", 1.0, "center", (0.5,), (0.5,))
HEAD_INPUTS = (ClassInput("class_weight", (WIDTH,), 0), ClassInput("class_bias", (), 0))
PREFIX_INPUTS = (
    ClassInput("prompt_keys", (LAYERS, HEADS, HEAD_WIDTH), 2),
    ClassInput("prompt_values", (LAYERS, HEADS, HEAD_WIDTH), 2),
    *HEAD_INPUTS,
)
JOINT_INPUTS = (ClassInput("prompts", (WIDTH,), 0), *HEAD_INPUTS)


class Block(nn.Module):
    """A pre-norm block whose attention sees extra keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, extra: Sequence[Tensor] = ()) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, HEADS, HEAD_WIDTH)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if extra:
            key, value = (
                torch.cat([each.unsqueeze(0).expand(batch, -1, -1, -1), own], dim=2)
                for each, own in zip(extra, (key, value), strict=True)
            )
        scores = (query * HEAD_WIDTH**-0.5) @ key.transpose(-2, -1)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, WIDTH)
        x = x + self.proj(mixed)
        return x + self.mlp(self.norm2(x))


class Backbone(nn.Module):
    """Patches, class token, positions, blocks, norm; the embedding is the class token."""

    def __init__(self, seed: int = 7) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (SIDE // PATCH) ** 2, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        draw = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=draw)
        self.eval()

    def tokens(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image).flatten(2).transpose(1, 2)
        return (
            torch.cat([self.cls_token.expand(image.shape[0], -1, -1), patches], dim=1)
            + self.pos_embed
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Run without classes: what a benchmark compares with."""
        x = self.tokens(image)
        for block in self.blocks:
            x = block(x)
        embedding = self.norm(x)[:, 0]
        return embedding[:, :1], embedding


class Prefix(Backbone):
    def forward(
        self,
        image: Tensor,
        prompt_keys: Tensor,
        prompt_values: Tensor,
        class_weight: Tensor,
        class_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x = self.tokens(image)
        for block, key, value in zip(self.blocks, prompt_keys, prompt_values, strict=True):
            x = block(x, (key, value))
        embedding = self.norm(x)[:, 0]
        return embedding @ class_weight.t() + class_bias, embedding


class Joint(Backbone):
    def forward(self, image: Tensor, *class_tensors: Tensor) -> tuple[Tensor, Tensor]:
        prompts, class_weight, class_bias = class_tensors
        x = torch.cat(
            [prompts.unsqueeze(0).expand(image.shape[0], -1, -1), self.tokens(image)], dim=1
        )
        for block in self.blocks:
            x = block(x)
        embedding = self.norm(x)[:, prompts.shape[0]]
        return embedding @ class_weight.t() + class_bias, embedding


def synthesizer(
    inputs: Sequence[ClassInput],
) -> Callable[[int, np.random.Generator], dict[str, NDArray[np.float32]]]:
    def synthesize(count: int, draw: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        shapes = {each.name: each.graph_shape(count) for each in inputs}
        return {name: draw.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}

    return synthesize


def source_of(
    module: nn.Module, inputs: tuple[ClassInput, ...], attention: str = "prefix"
) -> TorchSource:
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    return TorchSource(
        module=module,
        model_id=compute_model_id(weights, {"attention": attention}),
        attention=attention,
        image=IMAGE,
        class_inputs=inputs,
        preprocessing=PREPROCESSING,
        synthesize=synthesizer(inputs),
    )


def prefix_source() -> TorchSource:
    return source_of(Prefix(), PREFIX_INPUTS)


def joint_source() -> TorchSource:
    return source_of(Joint(), JOINT_INPUTS, "joint")


def bare_source() -> TorchSource:
    return source_of(Backbone(), (), "none")


@cache
def prefix_graph() -> bytes:
    return OnnxFromTorch().export(prefix_source())


@cache
def joint_graph() -> bytes:
    return OnnxFromTorch().export(joint_source())
