"""Opset 23: attention and GELU in one node each, where they really are what the nodes say."""

from collections import Counter

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from pfm_edge_exporters import ExportError, check_parity, torch_reference
from pfm_edge_exporters._graph_rules import require_rules, require_valid
from pfm_edge_exporters._opset23 import to_opset23
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.manifest import Variant
from tests.support.tiny_torch import (
    LAYERS,
    joint_graph,
    joint_source,
    prefix_graph,
    prefix_source,
)

CASES = [(prefix_source, prefix_graph), (joint_source, joint_graph)]


def counts(model: ModelProto) -> Counter:
    return Counter(each.op_type for each in model.graph.node)


@pytest.mark.parametrize(("make", "graph"), CASES)
def test_every_attention_and_gelu_is_one_node(make, graph):
    source = make()
    model = onnx.load_model_from_string(graph())
    assert to_opset23(model) == LAYERS
    found = counts(model)
    assert found["Attention"] == found["Gelu"] == LAYERS
    assert not {"Softmax", "Erf"} & found.keys()
    variant = Variant("opset23.onnx", "fp32", opset=23)
    require_rules(model, source, variant, layer_norms=2 * LAYERS + 1)
    require_valid(model)
    backend = load_backend("onnxruntime")(model.SerializeToString(), threads=1)
    assert check_parity(torch_reference(source), backend, source).worst < 1e-5


def test_equal_graphs_give_equal_bytes():
    models = [onnx.load_model_from_string(prefix_graph()) for _ in range(2)]
    for model in models:
        to_opset23(model)
    first, second = (each.SerializeToString(deterministic=True) for each in models)
    assert first == second


BIASED = """
<ir_version: 10, opset_import: ["" : 18]>
graph (float[batch, 2, 3, 4] q, float[batch, 2, 4, 5] k, float[batch, 2, 5, 4] v)
   => (float[batch, 2, 3, 4] y)
<float scale = {0.3}>
{
    scaled = Mul (scale, q)
    scores = MatMul (scaled, k)
    biased = Add (scores, bias)
    shares = Softmax <axis: int = -1> (biased)
    y = MatMul (shares, v)
}
"""


def biased() -> ModelProto:
    model = onnx.parser.parse_model(BIASED)
    bias = np.random.default_rng(0).standard_normal((1, 2, 3, 5), dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    return model


def test_a_bias_and_a_key_that_nothing_transposed():
    model = biased()
    draw = np.random.default_rng(1)
    feeds = {
        name: draw.standard_normal(shape, dtype=np.float32)
        for name, shape in {"q": (2, 2, 3, 4), "k": (2, 2, 4, 5), "v": (2, 2, 5, 4)}.items()
    }
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    assert to_opset23(model) == 1
    assert counts(model) == {"Transpose": 1, "Attention": 1}
    (found,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def changed(model, op_type, change) -> ModelProto:
    change(next(each for each in model.graph.node if each.op_type == op_type))
    return model


@pytest.mark.parametrize(
    "spoil",
    [
        # The shares are read by something else: they must stay a value.
        lambda model: model.graph.output.append(
            onnx.helper.make_tensor_value_info("shares", 1, ["batch", 2, 3, 5])
        ),
        lambda model: changed(model, "Add", lambda node: setattr(node, "op_type", "Sub")),
    ],
)
def test_what_is_no_attention_is_refused(spoil):
    model = biased()
    spoil(model)
    with pytest.raises(ExportError, match=r"no attention .* export without --opset23"):
        to_opset23(model)


@pytest.mark.parametrize("constant", [1.0, 0.5, 1.4142135])
def test_what_is_almost_a_gelu_stays_in_pieces(constant):
    model = onnx.load_model_from_string(prefix_graph())
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.size == 1 and array.dtype == np.float32 and np.isclose(array, constant):
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32(1.01), tensor.name))
    to_opset23(model)
    assert counts(model)["Gelu"] == 0
    assert counts(model)["Erf"] == LAYERS
