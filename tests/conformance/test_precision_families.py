"""Every pass over the graphs of backbones that differ in what the passes look at.

Layer scales, post-norms, RMS norms, attention pooling, rotary positions, biased scores, grouped
keys: each is a way to hide the scores, a norm or a product of weights from a pass.
"""

from dataclasses import replace
from functools import cache

import onnx
import pytest
from onnx import ModelProto

from pfm_edge_exporters import check_parity, torch_reference
from pfm_edge_exporters._calibration import calibrate
from pfm_edge_exporters._canonical import tidy, to_bytes
from pfm_edge_exporters._fold import fold
from pfm_edge_exporters._graph_rules import require_rules, require_valid
from pfm_edge_exporters._half import require_half_rules, to_half
from pfm_edge_exporters._int8 import require_int8_rules, to_int8
from pfm_edge_exporters._noise import imaginary_classes, noise_images, seeded
from pfm_edge_exporters._opset23 import to_opset23
from pfm_edge_exporters._pixels import take_pixels
from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters._static import to_static
from pfm_edge_runtime._layout import ClassLayout
from pfm_edge_runtime.agreement import TOLERANCES
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.manifest import Variant
from pfm_edge_runtime.variants import VariantGraph
from tests.conformance.test_precision_half import least_cosine, run
from tests.support.architectures import ARCHITECTURES
from tests.support.exported import Exported, differences_on_oldest, exported

CASES = (
    ("DINOv2", "prefix"),
    ("EVA-02, enormous", "joint"),
    ("AIMv2", "prefix"),
    ("SigLIP", "joint"),
    ("EVA-02", "joint"),
    ("BEiT", "prefix"),
    ("Sapiens 2", "joint"),
)
ONNX_RUNTIME = load_backend("onnxruntime")


@cache
def model_of(name, attention) -> Exported:
    return exported(next(case for case in ARCHITECTURES if case.name == name), attention)


@pytest.fixture(params=CASES, ids=", ".join)
def model(request) -> Exported:
    return model_of(*request.param)


def parse(model: Exported) -> ModelProto:
    return onnx.load_model_from_string(model.graph)


def feeds(source: TorchSource):
    draw = seeded(source.model_id, "families")
    return noise_images(source.image, 3, draw), imaginary_classes(source, 3, draw)


def require_parity(source, graph: ModelProto, variant: Variant, classes=(1, 2, 7)) -> float:
    tidy(graph)
    require_rules(graph, source, variant, layer_norms=0)
    require_valid(graph)
    backend = ONNX_RUNTIME(to_bytes(graph), threads=1)
    wrapped = VariantGraph(backend, variant, ClassLayout(source.class_inputs, variant.capacity))
    report = check_parity(
        torch_reference(source),
        wrapped,
        source,
        classes=classes,
        tolerance=TOLERANCES[variant.precision],
    )
    assert report.sensitivity > 1e-2
    return report.worst


def test_half_precision_rounded_for_real(model):
    graph = parse(model)
    images, tensors = feeds(model.source)
    inputs = {model.source.image.name: images, **tensors}
    expected = run(graph, inputs)
    to_half(graph)
    require_half_rules(graph)
    found = run(graph, inputs)
    assert min(map(least_cosine, expected, found)) >= 0.9999
    require_parity(model.source, graph, Variant("x", "fp16"))


def test_eight_bits(model):
    graph = parse(model)
    to_int8(graph)
    require_int8_rules(graph)
    require_parity(model.source, graph, Variant("x", "int8"))


def test_a_fixed_number_of_classes(model):
    graph, variant = parse(model), Variant("x", "fp32", 8, 2)
    to_static(graph, variant, model.source)
    assert require_parity(model.source, graph, variant, classes=(1, 2, 7, 8)) < 1e-5


def test_attention_in_one_node(model):
    graph = parse(model)
    softmaxes = sum(node.op_type == "Softmax" for node in graph.graph.node)
    assert to_opset23(graph) == softmaxes
    assert require_parity(model.source, graph, Variant("x", "fp32", opset=23)) < 1e-5


def test_pixels(model):
    graph = parse(model)
    source = replace(model.source, image=replace(model.source.image, dtype="uint8"))
    take_pixels(graph, source)
    assert require_parity(source, graph, Variant("x", "fp32")) < 1e-5


def test_nothing_is_left_to_fold_and_no_tensor_is_there_twice(model):
    graph = parse(model)
    before = len(graph.graph.node), len(graph.graph.initializer)
    fold(graph)
    tidy(graph)
    assert (len(graph.graph.node), len(graph.graph.initializer)) == before


def test_the_oldest_onnxruntime_computes_fewer_bits_alike(tmp_path):
    made = []
    for name, attention in CASES[:2]:
        model = model_of(name, attention)
        draw = seeded(model.source.model_id, "calibration")
        images = noise_images(model.source.image, 16, draw)
        batches = [(images, imaginary_classes(model.source, 7, draw))]
        ranges = calibrate(parse(model), batches, ONNX_RUNTIME)
        for kind, change in {
            "half": to_half,
            "dynamic": to_int8,
            "static": lambda graph, ranges=ranges: to_int8(graph, ranges),
        }.items():
            graph = parse(model)
            change(graph)
            tidy(graph)
            made.append(Exported(f"{name}, {kind}", model.source, to_bytes(graph)))
    differences = differences_on_oldest(made, tmp_path)
    assert max(differences.values()) < 0.5  # of embeddings of length 6
    assert max(value for name, value in differences.items() if "half" in name) < 0.02
