"""Half precision where a SwiGLU multiplies two activations, judged by onnx.reference.

Two layers of three families that write it differently. The first projection is scaled until the
product is beyond float16, as trained backbones make it for a few numbers of a few images.
"""

from functools import cache

import numpy as np
import onnx
import pytest
import torch

from pfm_edge.model import PromptedViT
from pfm_edge.publishing import deployable_source
from pfm_edge_exporters import OnnxFromTorch
from pfm_edge_exporters._gates import gated_products
from pfm_edge_exporters._half import require_half_rules, to_half
from pfm_edge_exporters._noise import imaginary_classes, noise_images, seeded
from pfm_edge_exporters._wiring import Wiring
from tests.conformance.test_precision_half import least_cosine, naive, run
from tests.support.architectures import ARCHITECTURES

FAMILIES = ("DINOv2, giant", "AIMv2", "EVA-02")  # packed, two projections, rotary besides
LAYERS = 2
LARGEST_HALF = float(np.finfo(np.float16).max)


@cache
def graph_and_feeds(family: str, scale: float):
    case = next(each for each in ARCHITECTURES if each.name == family)
    backbone = case.backbone()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if ".mlp.fc1" in name:
                parameter.mul_(scale)
    source = deployable_source(PromptedViT(backbone, "prefix", 2), case.config)
    draw = seeded(source.model_id, "swiglu")
    feeds = {"image": noise_images(source.image, 3, draw), **imaginary_classes(source, 3, draw)}
    return OnnxFromTorch().export(source), feeds


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gated_product_beyond_half_precision_harms_nothing(family, scale):
    graph, feeds = graph_and_feeds(family, scale)
    model = onnx.load_model_from_string(graph)
    gates = [node.output[0] for node in gated_products(Wiring.of(model))]
    assert len(gates) == LAYERS
    expected = run(model, feeds)
    overflows = [np.abs(each).max() > LARGEST_HALF for each in run(model, feeds, gates)]
    narrow = {name: array.astype(np.float16) for name, array in feeds.items()}
    assert np.isfinite(run(naive(graph), narrow)[1]).all() == (not any(overflows))
    assert any(overflows) == (scale > 1)

    to_half(model)
    require_half_rules(model)
    kinds = Wiring.of(model).types
    assert {kinds[name] for name in gates} == {onnx.TensorProto.FLOAT}
    found = run(model, feeds)
    for one, other in zip(expected, found, strict=True):
        assert least_cosine(one, other) >= 0.9999
    assert np.array_equal(expected[0].argmax(1), found[0].argmax(1))
