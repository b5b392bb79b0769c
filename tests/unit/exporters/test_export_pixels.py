"""A graph that takes pixels: the same outputs, and what cannot be folded is one line."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pfm_edge_exporters import ExportError, OnnxFromTorch, check_parity, torch_reference
from pfm_edge_exporters._canonical import tidy
from pfm_edge_exporters._graph_rules import require_valid
from pfm_edge_exporters._half import require_half_rules, to_half
from pfm_edge_exporters._pixels import take_pixels
from pfm_edge_runtime.agreement import TOLERANCES, Tolerance
from pfm_edge_runtime.backends import load_backend
from tests.support.tiny_torch import bare_source, joint_source, prefix_graph, prefix_source

UNEVEN = {"mean": (0.31,), "std": (0.2,)}


def pixels(source):
    preprocessing = replace(source.preprocessing, **UNEVEN)
    return replace(source, image=replace(source.image, dtype="uint8"), preprocessing=preprocessing)


def parity(source, graph, tolerance=Tolerance(absolute=2e-5)):  # noqa: B008 (frozen)
    backend = load_backend("onnxruntime")(graph, threads=1)
    return check_parity(torch_reference(source), backend, source, tolerance=tolerance)


@pytest.mark.parametrize("make", [prefix_source, joint_source, bare_source])
def test_pixels_give_what_normalised_images_gave(make):
    source = pixels(make())
    graph = OnnxFromTorch().export(source)
    assert parity(source, graph).worst < 2e-5
    model = onnx.load_model_from_string(graph)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert len(model.graph.initializer) == len(
        onnx.load_model_from_string(OnnxFromTorch().export(make())).graph.initializer
    )


def test_pixels_are_cast_to_half_precision_at_once():
    source = pixels(prefix_source())
    model = onnx.load_model_from_string(OnnxFromTorch().export(source))
    to_half(model)
    tidy(model)
    require_half_rules(model)
    require_valid(model)
    casts = [each for each in model.graph.node if each.input[0] == "image"]
    assert [(each.op_type, each.attribute[0].i) for each in casts if each.op_type == "Cast"] == [
        ("Cast", TensorProto.FLOAT16)
    ]
    parity(source, model.SerializeToString(), TOLERANCES["fp16"])


def conv(model):
    return next(each for each in model.graph.node if each.op_type == "Conv")


def pad(model):
    conv(model).attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))


def read_twice(model):
    model.graph.node.append(helper.make_node("Relu", ["image"], ["other"], "another/Relu"))


def compute_weights(model):
    weight = conv(model).input[1]
    conv(model).input[1] = "computed"
    model.graph.node.insert(0, helper.make_node("Identity", [weight], ["computed"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pad, "pads its input"),
        (read_twice, "is read by patch_embed/Conv, another/Relu"),
        (compute_weights, "the weights of patch_embed/Conv are computed"),
    ],
)
def test_what_cannot_be_folded_is_one_line(change, words):
    model = onnx.load_model_from_string(prefix_graph())
    for attribute in list(conv(model).attribute):
        if attribute.name == "auto_pad":
            conv(model).attribute.remove(attribute)
    change(model)
    with pytest.raises(ExportError, match=r"^[^\n]+; export without --fold-normalization$") as told:
        take_pixels(model, prefix_source())
    assert words in str(told.value)


def test_a_convolution_without_bias_gets_one():
    model = onnx.load_model_from_string(prefix_graph())
    weight = conv(model).input[1]
    del conv(model).input[2]
    take_pixels(model, pixels(prefix_source()))
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    expected = -(tensors[weight].sum(axis=(1, 2, 3)) * 0.31 / 0.2)
    np.testing.assert_allclose(tensors[conv(model).input[2]], expected, rtol=1e-5, atol=1e-6)
