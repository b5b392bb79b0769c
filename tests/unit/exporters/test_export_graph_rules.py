"""The rules of a graph: a real one keeps them all, and each is enforced."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from pfm_edge_exporters import ExportError
from pfm_edge_exporters._graph_rules import require_rules, require_valid
from pfm_edge_runtime.manifest import Variant
from tests.support.tiny_torch import LAYERS, prefix_graph, prefix_source

NORMS = 2 * LAYERS + 1
DYNAMIC = Variant("backbone.onnx", "fp32")


@pytest.fixture
def graph() -> ModelProto:
    return onnx.load_model_from_string(prefix_graph())


@pytest.fixture(scope="module")
def source():
    return prefix_source()


def broken(graph, source, layer_norms=NORMS):
    with pytest.raises(ExportError) as caught:
        require_rules(graph, source, DYNAMIC, layer_norms=layer_norms)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def node(graph, op_type, index=0):
    return [each for each in graph.graph.node if each.op_type == op_type][index]


def value(graph, name):
    return next(each for each in [*graph.graph.input, *graph.graph.output] if each.name == name)


def test_a_real_graph_keeps_them(graph, source):
    require_rules(graph, source, DYNAMIC, layer_norms=NORMS)
    require_valid(graph)


def test_layer_normalisation_stays_one_node(graph):
    assert [each.op_type for each in graph.graph.node].count("LayerNormalization") == NORMS


def test_a_decomposed_normalisation_is_refused(graph, source):
    norm = node(graph, "LayerNormalization")
    norm.op_type = "ReduceMean"
    norm.ClearField("attribute")
    del norm.input[1:]
    message = broken(graph, source)
    assert f"{NORMS} layer normalisations became {NORMS - 1} nodes and 1 ReduceMean" in message


@pytest.mark.parametrize(
    ("op_type", "domain", "words"),
    [
        ("Resize", "", "resizes at run time"),
        ("Upsample", "", "resizes at run time"),
        ("RandomUniformLike", "", "draws random numbers"),
        ("FusedMatMul", "com.microsoft", "of com.microsoft"),
    ],
)
def test_operators_that_do_not_belong(graph, source, op_type, domain, words):
    node(graph, "Softmax").MergeFrom(helper.make_node(op_type, [], [], domain=domain))
    assert words in broken(graph, source)


def test_other_operator_sets(graph, source):
    graph.opset_import[0].version = 23
    assert "{'': 23}" in broken(graph, source)
    graph.opset_import[0].version = 18
    graph.opset_import.add(domain="com.microsoft", version=1)
    assert "com.microsoft" in broken(graph, source)


def test_an_ir_version_that_old_runtimes_do_not_read(graph, source):
    graph.ir_version = 11
    assert "IR version is 11, above 10" in broken(graph, source)


def test_a_function_left_over(graph, source):
    graph.functions.add(name="mystery", domain="")
    assert "function mystery" in broken(graph, source)


def test_double_precision(graph, source):
    weight = graph.graph.initializer[0]
    array = numpy_helper.to_array(weight).astype(np.float64)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    assert f"{weight.name} is float64" in broken(graph, source)
    weight.CopyFrom(numpy_helper.from_array(array.astype(np.float32), weight.name))
    cast = helper.make_node("Cast", ["image"], ["wide"], "wide", to=TensorProto.DOUBLE)
    graph.graph.node.append(cast)
    assert "wide converts to float64" in broken(graph, source)


def test_inputs_by_name_and_order(graph, source):
    value(graph, "prompt_keys").name = "keys"
    assert "its inputs are ['image', 'keys'" in broken(graph, source)


def test_outputs_by_name(graph, source):
    value(graph, "logits").name = "scores"
    assert "its outputs are ['scores', 'embedding']" in broken(graph, source)


@pytest.mark.parametrize("name", ["class_bias", "embedding"])
def test_inputs_and_outputs_are_float32(graph, source, name):
    value(graph, name).type.tensor_type.elem_type = TensorProto.FLOAT16
    assert f"{name} is float16, not float32" in broken(graph, source)


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("image", 0),
        ("prompt_keys", 2),
        ("prompt_values", 2),
        ("class_weight", 0),
        ("class_bias", 0),
        ("logits", 0),
        ("logits", 1),
        ("embedding", 0),
    ],
)
@pytest.mark.parametrize("declared", ["number", "other symbol"])
def test_every_dynamic_axis_has_its_name(graph, source, name, axis, declared):
    dim = value(graph, name).type.tensor_type.shape.dim[axis]
    if declared == "number":
        dim.dim_value = 5
    else:
        dim.dim_param = "s77"
    assert f"put {name} is" in broken(graph, source)


def test_sizes_that_are_not_those_of_the_source(graph, source):
    value(graph, "image").type.tensor_type.shape.dim[1].dim_value = 3
    assert "input image is ('batch', 3, 8, 8), not ('batch', 1, 8, 8)" in broken(graph, source)


def test_an_embedding_of_unknown_width(graph, source):
    value(graph, "embedding").type.tensor_type.shape.dim[1].dim_param = "width"
    assert "output embedding is ('batch', 'width')" in broken(graph, source)


def test_an_output_with_other_axes(graph, source):
    value(graph, "embedding").type.tensor_type.shape.dim.add(dim_value=1)
    assert "output embedding is ('batch', 16, 1)" in broken(graph, source)


def test_an_input_that_reaches_no_output(graph, source):
    for each in graph.graph.node:
        each.input[:] = ["Mul" if name == "class_bias" else name for name in each.input]
    assert "input class_bias reaches no output" in broken(graph, source)


def test_a_declared_axis_that_the_nodes_contradict(graph, source):
    """The last node fixes the number of classes; the declaration still says otherwise."""
    last = next(each for each in graph.graph.node if "logits" in each.output)
    last.output[:] = ["free"]
    shape = numpy_helper.from_array(np.array([-1, 5], np.int64), "shape")
    graph.graph.initializer.append(shape)
    graph.graph.node.append(helper.make_node("Reshape", ["free", "shape"], ["logits"]))
    assert "axis 1 of output logits is always 5, not classes" in broken(graph, source)


def test_shapes_that_do_not_fit(graph, source):
    norm = node(graph, "Gather")
    norm.input[0] = "class_bias"
    graph.graph.node.append(helper.make_node("Concat", ["image", "class_bias"], ["c"], axis=0))
    assert "its shapes do not fit" in broken(graph, source)


def test_the_checker_has_the_last_word(graph):
    node(graph, "Softmax").op_type = "Softmin"
    with pytest.raises(ExportError, match=r"checker refuses it: .*Softmin") as caught:
        require_valid(graph)
    assert "\n" not in str(caught.value)
