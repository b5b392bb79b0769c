"""Half precision: what is narrowed, what never is, and that each rule is enforced."""

from collections import Counter

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pfm_edge_exporters import ExportError
from pfm_edge_exporters._canonical import tidy
from pfm_edge_exporters._gates import gated_products
from pfm_edge_exporters._graph_rules import require_valid
from pfm_edge_exporters._half import require_half_rules, to_half
from pfm_edge_exporters._wiring import Wiring
from tests.support.tiny_torch import LAYERS, joint_graph, prefix_graph

HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT
GRAPHS = [prefix_graph, joint_graph]


def halved(graph) -> ModelProto:
    model = onnx.load_model_from_string(graph())
    to_half(model)
    tidy(model)
    return model


def node(model: ModelProto, op_type: str, index: int = 0):
    return [each for each in model.graph.node if each.op_type == op_type][index]


def broken(model: ModelProto) -> str:
    with pytest.raises(ExportError, match=r"^[^\n]+$") as caught:
        require_half_rules(model)
    return str(caught.value)


@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_products_are_half_and_nothing_that_must_not_be(graph):
    model = halved(graph)
    require_half_rules(model)
    onnx.checker.check_model(model, full_check=True)
    kinds = Wiring.of(model).types
    products = Counter(
        kinds[each.output[0]] for each in model.graph.node if each.op_type in {"MatMul", "Conv"}
    )
    # qkv, weighted sum, proj and two of the MLP in each layer, and the patches; against the scores
    # of each layer and the classifier.
    assert products == {HALF: 5 * LAYERS + 1, FULL: LAYERS + 1}
    widths = {each.name: each.data_type for each in model.graph.initializer}
    assert widths["blocks.0.norm1.weight"] == widths["pos_embed"] == widths["cls_token"] == FULL
    assert widths["patch_embed.weight"] == widths["blocks.1.qkv.bias"] == HALF


@pytest.mark.parametrize("graph", GRAPHS)
def test_inputs_and_outputs_stay_what_they_were(graph):
    before, after = onnx.load_model_from_string(graph()).graph, halved(graph).graph
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_residual_stream_is_never_rounded(graph):
    model = halved(graph)
    wiring = Wiring.of(model)
    sums = [each for each in model.graph.node if each.op_type == "Add"]
    residual = [
        each for each in sums if len(wiring.varying(each)) == 2 and "logits" not in each.output
    ]
    assert len(residual) == 2 * LAYERS
    assert {wiring.types[name] for each in residual for name in each.input} == {FULL}


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_value_is_cast_once_and_never_back_at_once(graph):
    casts = [each for each in halved(graph).graph.node if each.op_type == "Cast"]
    sources = [each.input[0] for each in casts]
    assert len(set(sources)) == len(sources)
    assert set(sources).isdisjoint(each.output[0] for each in casts)


@pytest.mark.parametrize("graph", GRAPHS)
def test_equal_graphs_give_equal_bytes(graph):
    first, second = (halved(graph).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_tensor_that_both_widths_read_is_there_in_both():
    model = onnx.load_model_from_string(prefix_graph())
    # Layer norms that share a tensor with a linear layer's bias, as freshly made models do.
    proj = next(each for each in model.graph.node if each.name == "blocks.0.proj/Add")
    norm = node(model, "LayerNormalization")
    proj.input[:] = [norm.input[2] if "bias" in name else name for name in proj.input]
    to_half(model)
    require_half_rules(model)
    widths = {each.name: each.data_type for each in model.graph.initializer}
    assert widths["blocks.0.norm1.bias"] == FULL
    assert widths["blocks.0.norm1.bias.float16"] == HALF


def test_a_weight_beyond_half_precision_is_refused():
    model = onnx.load_model_from_string(prefix_graph())
    weight = next(each for each in model.graph.initializer if each.name == "patch_embed.weight")
    array = numpy_helper.to_array(weight) * np.float32(1e6)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    with pytest.raises(ExportError, match=r"patch_embed\.weight holds .* ends at 65504"):
        to_half(model)


def test_a_graph_that_is_half_everywhere_is_refused():
    model = onnx.load_model_from_string(prefix_graph())
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = HALF
    for tensor in model.graph.initializer:
        if tensor.data_type == FULL:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert "blocks.0.norm1/LayerNormalization computes in float16" in broken(model)


def test_scores_in_half_precision_are_refused():
    model = halved(prefix_graph)
    attention = next(iter(Wiring.of(model).attentions()))
    (scores,) = attention.scores
    index = list(model.graph.node).index(scores)
    to, back = (
        helper.make_node("Cast", [name], [f"{name}/x"], f"{name}/x", to=kind)
        for name, kind in ((scores.input[0], HALF), (scores.output[0], FULL))
    )
    other = helper.make_node("Cast", [scores.input[1]], ["y"], "y", to=HALF)
    scores.input[:] = [to.output[0], "y"]
    attention.softmax.input[0] = back.output[0]
    for offset, added in ((1, back), (0, other), (0, to)):
        model.graph.node.insert(index + offset, added)
    assert "multiplies queries and keys in float16" in broken(model)


def test_a_cast_between_scores_and_softmax_is_refused():
    model = halved(prefix_graph)
    softmax = node(model, "Softmax")
    index = list(model.graph.node).index(softmax)
    name = softmax.input[0]
    softmax.input[0] = "back"
    model.graph.node.insert(index, helper.make_node("Cast", ["there"], ["back"], "b", to=FULL))
    model.graph.node.insert(index, helper.make_node("Cast", [name], ["there"], "t", to=HALF))
    assert f"lies between the scores and {softmax.name}" in broken(model)


def test_a_graph_with_nothing_in_half_precision_is_refused():
    assert "no product computes in float16" in broken(onnx.load_model_from_string(prefix_graph()))


GATED = """
    <ir_version: 10, opset_import: ["" : 18]>
    graph (float[n, 2] x) => (float[n, 2] y)
    <float[2, 4] one = {0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08},
     float[2, 4] two = {8, 7, 6, 5, 4, 3, 2, 1},
     float[4, 2] down = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] bias = {1, 2}> {
        gate = MatMul(x, one)
        value = MatMul(x, two)
        likely = Sigmoid(gate)
        active = Mul(gate, likely)
        gated = Mul(active, value)
        mixed = READ
        y = Add(mixed, x)
    }
"""


@pytest.mark.parametrize("text", ["MatMul(gated, down)", "Gemm(gated, down, bias)"])
def test_what_a_gate_multiplies_has_room(text):
    model = onnx.parser.parse_model(GATED.replace("READ", text))
    image = np.array([[800, 400], [-1, 0.5]], np.float32)  # the product is 280,000
    (expected,) = ReferenceEvaluator(model).run(None, {"x": image})
    to_half(model)
    require_valid(model)
    wiring = Wiring.of(model)
    assert [each.output[0] for each in gated_products(wiring)] == ["gated"]  # and not x * f(x)
    kinds = {each.output[0]: wiring.types[each.output[0]] for each in wiring.nodes}
    assert kinds["gate"] == kinds["value"] == HALF
    assert kinds["active"] == kinds["gated"] == kinds["mixed"] == FULL
    assert kinds.get("mixed/divided") == (HALF if "MatMul" in text else None)
    (found,) = ReferenceEvaluator(model).run(None, {"x": image})
    assert expected.max() > 1e6
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_a_gated_product_in_half_precision_is_refused():
    model = onnx.parser.parse_model(GATED.replace("READ", "MatMul(gated, down)"))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = HALF
    assert "multiplies two activations in float16" in broken(model)
