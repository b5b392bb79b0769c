"""Static graphs: room for so many classes, a mask, and the outputs of the dynamic graph."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

from pfm_edge_exporters import ExportError, check_parity, torch_reference
from pfm_edge_exporters._canonical import tidy
from pfm_edge_exporters._fold import fold
from pfm_edge_exporters._graph_rules import require_rules, require_valid
from pfm_edge_exporters._half import require_half_rules, to_half
from pfm_edge_exporters._noise import imaginary_classes, noise_images, seeded
from pfm_edge_exporters._static import to_static
from pfm_edge_runtime._layout import ClassLayout
from pfm_edge_runtime.agreement import TOLERANCES
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.manifest import Variant
from pfm_edge_runtime.variants import VariantGraph
from tests.support.tiny_torch import (
    LAYERS,
    joint_graph,
    joint_source,
    prefix_graph,
    prefix_source,
)

NORMS = 2 * LAYERS + 1
CASES = [(prefix_source, prefix_graph), (joint_source, joint_graph)]
SIZES = [(8, None), (8, 2), (1, 1)]


def static(graph, source, capacity, batch=None) -> tuple[ModelProto, Variant]:
    model = onnx.load_model_from_string(graph())
    variant = Variant("static.onnx", "fp32", capacity, batch)
    to_static(model, variant, source)
    tidy(model)
    return model, variant


def loaded(model):
    return load_backend("onnxruntime")(model.SerializeToString(), threads=1)


@pytest.mark.parametrize(("make", "graph"), CASES)
@pytest.mark.parametrize(("capacity", "batch"), SIZES)
def test_padding_changes_no_output(make, graph, capacity, batch):
    source = make()
    model, variant = static(graph, source, capacity, batch)
    require_rules(model, source, variant, layer_norms=NORMS)
    require_valid(model)
    padded = VariantGraph(loaded(model), variant, ClassLayout(source.class_inputs, capacity))
    counts = [count for count in (1, 2, 7, 8) if count <= capacity]
    report = check_parity(torch_reference(source), padded, source, classes=counts)
    assert report.worst < 1e-5


@pytest.mark.parametrize(("make", "graph"), CASES)
def test_the_mask_alone_says_which_rows_count(make, graph):
    """Rows may be anywhere, and what lies in the others reaches nothing."""
    source = make()
    draw = seeded(source.model_id, "static")
    images = noise_images(source.image, 3, draw)
    few = imaginary_classes(source, 3, draw)
    many = {name: 50 * array for name, array in imaginary_classes(source, 8, draw).items()}
    slots = [6, 0, 3]
    for each in source.class_inputs:
        target = np.moveaxis(many[each.name], each.class_axis, 0)
        target[slots] = np.moveaxis(few[each.name], each.class_axis, 0)
    mask = np.isin(np.arange(8), slots)
    model, _ = static(graph, source, 8)
    found = loaded(model).run(images, {**many, "class_mask": mask})
    expected = loaded(onnx.load_model_from_string(graph())).run(images, few)
    np.testing.assert_allclose(found.logits[:, slots], expected.logits, atol=1e-5)
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)
    assert (found.logits[:, ~mask] == np.finfo(np.float32).min).all()
    assert mask[found.logits.argmax(axis=1)].all()


@pytest.mark.parametrize(("make", "graph"), CASES)
def test_sizes_that_are_fixed_are_not_computed(make, graph):
    model, _ = static(graph, make(), 8, 2)
    assert "Shape" not in {each.op_type for each in model.graph.node}


@pytest.mark.parametrize(("make", "graph"), CASES)
def test_a_static_graph_in_half_precision_keeps_both_rules(make, graph):
    source = make()
    model, variant = static(graph, source, 8, 2)
    to_half(model)
    tidy(model)
    require_half_rules(model)
    require_rules(model, source, variant, layer_norms=NORMS)
    require_valid(model)
    padded = VariantGraph(loaded(model), variant, ClassLayout(source.class_inputs, 8))
    report = check_parity(
        torch_reference(source), padded, source, classes=(1, 7), tolerance=TOLERANCES["fp16"]
    )
    assert report.sensitivity > 1e-2


def test_equal_graphs_give_equal_bytes():
    first, second = (static(joint_graph, joint_source(), 8, 2)[0] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


UNKNOWN = """
<ir_version: 10, opset_import: ["" : 18]>
graph (float[batch, 4] image) => (float[batch, 4] embedding)
{
    where = NonZero (image)
    some = Cast <to: int = 1> (where)
    shares = Softmax (some)
    sum = ReduceSum <keepdims: int = 0> (shares)
    embedding = Add (image, sum)
}
"""


def test_attention_of_unknown_size_is_refused():
    model = onnx.parser.parse_model(UNKNOWN)
    with pytest.raises(ExportError, match=r"unknown number of tokens .*; export it without --s"):
        to_static(model, Variant("static.onnx", "fp32", 8), prefix_source())


FOLDABLE = """
<ir_version: 10, opset_import: ["" : 18]>
graph (float[batch, 4] x) => (float[batch, 4] y)
<float[1, 4] table = {1.0, 2.0, 3.0, 4.0}, int64[1] two = {2}, int64[2] halves = {2, 2},
 int64[2] four = {4, 4}, int64[2] hundred = {100, 4}>
{
    size = Shape <start: int = 1, end: int = 2> (x)
    rest = Sub (size, two)
    sine, cosine = Split <axis: int = 1> (table, halves)
    turned = Concat <axis: int = 1> (cosine, sine)
    same = Identity (turned)
    large = Expand (table, hundred)
    sum = ReduceSum <keepdims: int = 1> (large)
    scaled = Mul (x, same)
    shifted = Add (scaled, sum)
    length = Cast <to: int = 1> (rest)
    y = Div (shifted, length)
}
"""


def test_what_depends_on_no_input_is_computed_at_export():
    model = onnx.parser.parse_model(FOLDABLE)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    (before,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    fold(model)
    # What would be 25 times as large is left to the runtime; what follows from it, too.
    assert [each.op_type for each in model.graph.node] == [
        "Expand", "ReduceSum", "Mul", "Add", "Div",
    ]  # fmt: skip
    (after,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(after, before)
    turned = next(each for each in model.graph.initializer if each.name == "turned")
    assert numpy_helper.to_array(turned).tolist() == [[3, 4, 1, 2]]
