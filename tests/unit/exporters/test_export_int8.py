"""Eight bits: what is quantised, that ranges are measured and not guessed, and where it is fast."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from pfm_edge_exporters import ExportError, ExportOptions, check_parity, torch_reference
from pfm_edge_exporters._calibration import calibrate
from pfm_edge_exporters._canonical import tidy
from pfm_edge_exporters._cpu import cpu_flags, instructions_for_int8
from pfm_edge_exporters._graph_rules import require_rules, require_valid
from pfm_edge_exporters._graphs import require_machine
from pfm_edge_exporters._int8 import require_int8_rules, to_int8
from pfm_edge_exporters._noise import imaginary_classes, noise_images, seeded
from pfm_edge_exporters.options import Machine
from pfm_edge_runtime.agreement import TOLERANCES
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.manifest import Variant
from tests.support.tiny_torch import (
    LAYERS,
    joint_graph,
    joint_source,
    prefix_graph,
    prefix_source,
)

PRODUCTS = 4 * LAYERS  # qkv, proj and two of the MLP
CASES = [(prefix_source, prefix_graph), (joint_source, joint_graph)]
ONNX_RUNTIME = load_backend("onnxruntime")


def batches(source, count=4):
    draw = seeded(source.model_id, "calibration")
    return [
        (noise_images(source.image, 8, draw), imaginary_classes(source, classes, draw))
        for classes in range(1, count + 1)
    ]


def quantised(graph, source, *, static: bool):
    model = onnx.load_model_from_string(graph())
    ranges = None
    if static:
        measured = onnx.load_model_from_string(graph())
        ranges = calibrate(measured, batches(source), ONNX_RUNTIME)
    to_int8(model, ranges)
    tidy(model)
    return model


@pytest.mark.parametrize(("make", "graph"), CASES)
@pytest.mark.parametrize("static", [False, True])
def test_an_eight_bit_graph_is_near_the_model(make, graph, static):
    source = make()
    model = quantised(graph, source, static=static)
    require_int8_rules(model)
    require_rules(model, source, Variant("int8.onnx", "int8"), layer_norms=2 * LAYERS + 1)
    require_valid(model)
    backend = ONNX_RUNTIME(model.SerializeToString(), threads=1)
    report = check_parity(torch_reference(source), backend, source, tolerance=TOLERANCES["int8"])
    assert report.sensitivity > 1e-2
    assert report.worst > 1e-4  # or nothing was quantised
    kinds = [each.op_type for each in model.graph.node]
    counted = {"static": "QuantizeLinear", "dynamic": "MatMulInteger"}
    assert kinds.count(counted["static" if static else "dynamic"]) == PRODUCTS
    weights = [each for each in model.graph.initializer if each.name.endswith("/int8")]
    assert len(weights) == PRODUCTS


@pytest.mark.parametrize("static", [False, True])
def test_equal_graphs_give_equal_bytes(static):
    first, second = (quantised(prefix_graph, prefix_source(), static=static) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


def test_every_column_of_weights_has_its_own_scale():
    before = onnx.load_model_from_string(prefix_graph())
    after = quantised(prefix_graph, prefix_source(), static=False)
    tensors = {each.name: numpy_helper.to_array(each) for each in after.graph.initializer}
    node = next(each for each in before.graph.node if each.name == "blocks.0.qkv/MatMul")
    weight = next(each for each in before.graph.initializer if each.name == node.input[1])
    expected = numpy_helper.to_array(weight)
    scale = tensors[f"{node.input[1]}/scale"]
    assert scale.shape == expected.shape[1:]
    found = tensors[f"{node.input[1]}/int8"] * scale
    assert (np.abs(found - expected) <= scale / 2 + 1e-7).all()


def test_a_column_of_zeros_stays_zeros():
    model = onnx.load_model_from_string(prefix_graph())
    node = next(each for each in model.graph.node if each.name == "blocks.0.qkv/MatMul")
    weight = next(each for each in model.graph.initializer if each.name == node.input[1])
    array = numpy_helper.to_array(weight).copy()
    array[:, 3] = 0
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    to_int8(model)
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert tensors[f"{weight.name}/scale"][3] == 1
    assert not tensors[f"{weight.name}/int8"][:, 3].any()


def test_calibration_measures_what_a_product_reads():
    source = prefix_source()
    model = onnx.load_model_from_string(prefix_graph())
    node = next(each for each in model.graph.node if each.name == "blocks.0.qkv/MatMul")
    ranges = calibrate(model, batches(source), ONNX_RUNTIME)
    assert len(ranges) == PRODUCTS
    seen = []
    qkv = source.module.blocks[0].qkv
    qkv.register_forward_pre_hook(lambda _, inputs: seen.extend([*inputs[0].aminmax()]))
    for images, tensors in batches(source):
        torch_reference(source)(images, tensors)
    low, high = ranges[node.output[0]]
    assert low == pytest.approx(float(min(seen)), abs=1e-5)
    assert high == pytest.approx(float(max(seen)), abs=1e-5)


def test_calibration_without_images_is_refused():
    with pytest.raises(ExportError, match="no image to calibrate with"):
        calibrate(onnx.load_model_from_string(prefix_graph()), [], ONNX_RUNTIME)


def test_a_product_that_was_not_calibrated_is_refused():
    model = onnx.load_model_from_string(prefix_graph())
    with pytest.raises(ExportError, match=r"calibration did not reach blocks\.0\.mlp\.0/MatMul"):
        to_int8(model, {})


def test_a_graph_without_products_of_weights_is_refused():
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> graph (float[2] x) => (float[2] y) {y = Relu(x)}'
    )
    with pytest.raises(ExportError, match="no product of weights"):
        to_int8(onnx.parser.parse_model(text))


def test_a_product_that_was_left_in_float_is_found():
    with pytest.raises(ExportError, match=r"blocks\.0\.qkv/MatMul multiplies float32 weights"):
        require_int8_rules(onnx.load_model_from_string(prefix_graph()))


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"avx512f", "avx512_vnni"}, "avx512_vnni"),
        ({"avx2", "avx_vnni"}, "avx_vnni"),
        ({"fp", "asimd", "asimddp"}, "asimddp"),
        ({"avx2", "fma"}, None),
        (set(), None),
    ],
)
def test_the_instructions_that_make_eight_bits_fast(flags, found):
    assert instructions_for_int8(lambda: frozenset(flags)) == found


def test_the_flags_are_those_of_this_machine():
    assert all(flag.isprintable() and " " not in flag for flag in cpu_flags())


def test_int8_is_refused_where_it_would_be_slow_unless_forced():
    old = Machine(cpu_flags=lambda: frozenset(["avx2"]))
    with pytest.raises(ExportError, match=r"no VNNI .*, or add --force$"):
        require_machine(ExportOptions(3, precisions=("int8",), machine=old))
    require_machine(ExportOptions(3, precisions=("int8",), machine=old, force=True))
    require_machine(ExportOptions(3, precisions=("fp16",), machine=old))
