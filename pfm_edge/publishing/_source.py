"""What an exporter is given: the deployable module, its identity, its classes' tensors.

LoRA is merged before anything is hashed or traced. The module is the backbone alone: prompts and
head rows leave through the bundle, never through the graph.
"""

import copy
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pfm_edge.config import BackboneConfig
from pfm_edge.model import PromptedViT, image_input, merge_lora, preprocessing, set_image_size
from pfm_edge.training import Run
from pfm_edge_exporters import TorchSource
from pfm_edge_exporters.identity import JsonValue, compute_model_id
from pfm_edge_runtime.bundle import Bundle, Entry
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.manifest import ClassInput, Manifest, ModelId

__all__ = ["bundle_factory", "class_entries", "deployable_source"]


class DeployableModel(nn.Module):
    """The exported computation: image and class tensors in, logits and embedding out.

    Attention is written out as MatMul and Softmax: the graph is then plain opset 18.
    """

    def __init__(self, model: PromptedViT) -> None:
        super().__init__()
        self.backbone = model.backbone
        self._model = (model,)  # a tuple: prompts and head must not become parameters of the graph

    @property
    def _trained(self) -> PromptedViT:
        return self._model[0]

    def forward(self, image: Tensor, *class_tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Run the backbone with C classes.

        Args:
            image: float32 [B, channels, height, width].
            class_tensors: the prompt tensors of the attention variant in graph layout, then
                `class_weight` [C, D] and `class_bias` [C].

        Returns:
            logits [B, C] and embedding [B, D], float32.
        """
        *prompts, weight, bias = class_tensors
        names = [spec.name for spec in self._trained.prompt_inputs]
        tensors = {n: t.unsqueeze(0) for n, t in zip(names, prompts, strict=True)}
        embedding = self._trained.embed(image, tensors, fused=False)
        return embedding @ weight.t() + bias, embedding


def deployable_source(
    model: PromptedViT, config: BackboneConfig, image_size: tuple[int, int] | None = None
) -> TorchSource:
    """Describe a model to an exporter.

    Args:
        model: float32, on the CPU; left unchanged.
        config: what its backbone was made from.
        image_size: height and width to deploy it for, instead of what it was made for; this is
            another model, by id too.

    Raises:
        ConfigError: the backbone cannot take images of that size.
    """
    model = copy.deepcopy(model).eval()
    merge_lora(model.backbone)
    if image_size is not None:
        set_image_size(model.backbone, image_size)
    image = image_input(model.backbone)
    class_inputs = _class_inputs(model)
    identity: dict[str, JsonValue] = {
        "attention": model.attention.kind,
        "architecture": config.model,
        "arguments": cast(JsonValue, config.arguments),
        "image": list(image.shape),
    }
    weights = {name: t.detach().numpy() for name, t in model.backbone.state_dict().items()}
    return TorchSource(
        module=DeployableModel(model).eval(),
        model_id=compute_model_id(weights, identity),
        attention=model.attention.kind,
        image=image,
        class_inputs=class_inputs,
        preprocessing=preprocessing(config, model.backbone),
        synthesize=_synthesizer(model),
    )


def class_entries(run: Run, model: PromptedViT) -> list[Entry]:
    """Compute every class's slice of every class input, with its id and label."""
    with torch.inference_mode():
        merged = copy.deepcopy(model).eval()
        merge_lora(merged.backbone)
        tensors = _graph_tensors(merged, merged.prompts, merged.head.weight, merged.head.bias)
    axes = {spec.name: spec.class_axis for spec in _class_inputs(merged)}
    return [
        Entry(
            class_id=record.class_id,
            label=record.label,
            tensors={
                name: np.array(tensor.take(record.index, axis=axes[name]))
                for name, tensor in tensors.items()
            },
        )
        for record in run.classes
    ]


def bundle_factory(
    entries: Sequence[Entry],
    take_place: Callable[[ModelId], tuple[int, int]],
    signers: Sequence[SigningKey] = (),
) -> Callable[[bytes], bytes]:
    """Return what makes a bundle of classes, given the manifest that it shall serve.

    Args:
        entries: the run's classes.
        take_place: gives the next (epoch, sequence) of a model; called once for each bundle.
        signers: who signs it; with none it stays unsigned.
    """

    def make(manifest: bytes) -> bytes:
        parsed = Manifest.from_bytes(manifest)
        epoch, sequence = take_place(parsed.model_id)
        bundle = Bundle.build(
            model_id=parsed.model_id,
            manifest_digests=(digest_of(manifest),),
            inputs=parsed.bundle_inputs,
            entries=entries,
            issued_at=datetime.now(UTC),
            epoch=epoch,
            sequence=sequence,
        )
        for signer in signers:
            bundle = bundle.signed_by(signer)
        return bundle.to_bytes()

    return make


def _class_inputs(model: PromptedViT) -> tuple[ClassInput, ...]:
    width = model.head.in_features
    return (
        *model.prompt_inputs,
        ClassInput(name="class_weight", slice_shape=(width,), class_axis=0),
        ClassInput(name="class_bias", slice_shape=(), class_axis=0),
    )


def _graph_tensors(
    model: PromptedViT, prompts: Tensor, weight: Tensor, bias: Tensor
) -> dict[str, NDArray[np.float32]]:
    tensors = {**model.attention.encode(model.backbone, prompts)}
    tensors |= {"class_weight": weight, "class_bias": bias}
    return {name: t.detach().contiguous().numpy() for name, t in tensors.items()}


def _synthesizer(
    model: PromptedViT,
) -> Callable[[int, np.random.Generator], dict[str, NDArray[np.float32]]]:
    """Class tensors of nobody: seeded noise prompts through the same encoder, a noise head."""
    width, embedding = model.backbone.embed_dim, model.head.in_features

    def synthesize(count: int, draw: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        def noise(*shape: int, scale: float = 1.0) -> Tensor:
            values = draw.standard_normal(shape, dtype=np.float32) * np.float32(scale)
            return torch.from_numpy(values)

        with torch.inference_mode():
            return _graph_tensors(
                model,
                noise(count, width),
                noise(count, embedding, scale=embedding**-0.5),
                noise(count),
            )

    return synthesize
