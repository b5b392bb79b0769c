"""Half precision against float32, both run by onnx.reference, which rounds every value for real.

ONNX Runtime's CPU provider computes float16 products in float32 and proves nothing here. The scale
multiplies the residual stream; layer normalisation takes it out again, so the model computes the
same whatever the scale is, and whatever overflows on the way shows.
"""

import warnings
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from pfm_edge.config import BackboneConfig
from pfm_edge.model import PromptedViT, create_backbone
from pfm_edge.publishing import deployable_source
from pfm_edge_exporters import OnnxFromTorch
from pfm_edge_exporters._half import require_half_rules, to_half
from pfm_edge_exporters._noise import imaginary_classes, noise_images, seeded

SIDE = 32
CONFIG = BackboneConfig(
    model="vit_tiny_patch16_224", arguments={"img_size": SIDE, "depth": 2, "init_values": 1.0}
)
CASES = [(kind, scale) for kind in ("prefix", "joint") for scale in (1.0, 3e3)]


@cache
def graph_and_feeds(kind: str, scale: float):
    torch.manual_seed(0)
    model = PromptedViT(create_backbone(CONFIG), kind, 4).eval()
    backbone = model.backbone
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "ls" in name:
                parameter.normal_().mul_(scale)
            elif "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
        backbone.cls_token.normal_().mul_(scale)
        backbone.pos_embed.normal_().mul_(scale)
        backbone.patch_embed.proj.weight.mul_(scale)
    source = deployable_source(model, CONFIG)
    draw = seeded(source.model_id, "half")
    feeds = {"image": noise_images(source.image, 2, draw), **imaginary_classes(source, 3, draw)}
    return OnnxFromTorch().export(source), feeds


def run(model: ModelProto, feeds, names=("logits", "embedding")):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # what overflows is the point
        return ReferenceEvaluator(model).run(list(names), feeds)


def least_cosine(left, right) -> float:
    left, right = (each.astype(np.float64) for each in (left, right))
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return float(((left * right).sum(axis=-1) / norms).min())


def naive(graph: bytes) -> ModelProto:
    """Everything in float16, as a builder's precision flag makes it."""
    model = onnx.load_model_from_string(graph)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):
                array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


@pytest.mark.parametrize(("kind", "scale"), CASES)
def test_half_precision_agrees_with_float32(kind, scale):
    graph, feeds = graph_and_feeds(kind, scale)
    model = onnx.load_model_from_string(graph)
    expected = run(model, feeds)
    to_half(model)
    require_half_rules(model)
    found = run(model, feeds)
    for one, other in zip(expected, found, strict=True):
        assert other.dtype == np.float32
        assert least_cosine(one, other) >= 0.9999
    assert np.array_equal(expected[0].argmax(1), found[0].argmax(1))


@pytest.mark.parametrize("kind", ["prefix", "joint"])
def test_these_activations_are_beyond_naive_half_precision(kind):
    graph, feeds = graph_and_feeds(kind, 3e3)
    narrow = {name: array.astype(np.float16) for name, array in feeds.items()}
    _, embedding = run(naive(graph), narrow)
    assert not np.isfinite(embedding).all()
    # The scale is the reason: without it even this conversion works.
    graph, feeds = graph_and_feeds(kind, 1.0)
    narrow = {name: array.astype(np.float16) for name, array in feeds.items()}
    expected = run(onnx.load_model_from_string(graph), feeds)
    assert least_cosine(expected[1], run(naive(graph), narrow)[1]) > 0.99
