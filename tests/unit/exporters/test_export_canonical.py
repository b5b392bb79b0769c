"""One spelling for a graph: what goes, what stays, and that only the computation counts."""

import random

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pfm_edge_exporters import ExportError
from pfm_edge_exporters._canonical import canonicalise, to_bytes

AXES = {"image": {0: "batch"}, "weight": {0: "classes"}}
IMAGE = np.array([[1, -2, 3], [0.5, 0, -1]], np.float32)
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def noisy(seed: int = 0) -> ModelProto:
    """Return (2·image + 2) @ weight.T as a careless exporter might write it."""
    shuffle = random.Random(seed)
    unused = shuffle.choice(["x", "dead_7", "val_9"])
    two, named = (np.full((1,), 2, np.float32) for _ in range(2))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(two)),
        helper.make_node("Mul", ["image", "c"], ["v1"], name=f"node_{seed}", doc_string="/home/x"),
        helper.make_node("Relu", ["v1"], [unused]),
        helper.make_node("Add", ["v1", "module.bias"], ["v2"]),
        helper.make_node("Transpose", ["weight"], ["v3"], perm=[1, 0]),
        helper.make_node("MatMul", ["v2", "v3"], ["logits"]),
    ]
    tensors = [
        numpy_helper.from_array(named, "module.bias"),
        numpy_helper.from_array(np.full((9,), seed, np.float32), "unused"),
    ]
    shuffle.shuffle(tensors)
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        f"graph_{seed}",
        [
            declare("image", TensorProto.FLOAT, ["s77", 3]),
            declare("weight", TensorProto.FLOAT, ["s1", 3]),
        ],
        [declare("logits", TensorProto.FLOAT, ["s77", "s1"])],
        tensors,
        value_info=[declare("v1", TensorProto.FLOAT, ["s77", 3])],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("unused.domain", 1)]
    model = helper.make_model(graph, opset_imports=imports, producer_name=f"p{seed}")
    model.ir_version = 10
    decorate(model, f"/folder/{seed}")
    renamed = {"c": "val_3", "v1": f"t{seed}", "v2": f"u{seed}", "v3": f"w{seed}"}
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return model


def decorate(model: ModelProto, remark: str) -> None:
    """Put a remark wherever the format has room for one."""
    model.doc_string = model.producer_version = model.domain = remark
    model.graph.doc_string = remark
    value_types = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for part in [model, model.graph, *model.graph.node, *value_types, *model.graph.initializer]:
        part.metadata_props.add(key="where", value=remark)
    for part in [*model.graph.node, *value_types, *model.graph.initializer]:
        part.doc_string = remark
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.doc_string = remark
    scopes = "['', 'module', 'module.head', 'linear']"
    model.graph.node[-1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)


def canonical(model: ModelProto, prefix: str = "module.") -> ModelProto:
    canonicalise(model, axes=AXES, prefix=prefix)
    return model


def run(model: ModelProto) -> np.ndarray:
    (logits,) = ReferenceEvaluator(model).run(None, {"image": IMAGE, "weight": WEIGHT})
    return logits


def test_the_whole_of_a_canonical_graph():
    model = canonical(noisy())
    onnx.checker.check_model(model, full_check=True)
    expected = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18], producer_name: "pfm-edge">
        backbone (float[batch,3] image, float[classes,3] weight) => (float[batch,classes] logits)
        <float[1] bias = {2}>
        {
          [Mul] Mul_output_0 = Mul (image, bias)
          [Add] Add_output_0 = Add (Mul_output_0, bias)
          [Transpose] Transpose_output_0 = Transpose <perm = [1, 0]> (weight)
          ["head/MatMul"] logits = MatMul (Add_output_0, Transpose_output_0)
        }"""
    )
    # The text shows values of initialisers only where they are stored as the parser stores them.
    for tensor in expected.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    assert onnx.printer.to_text(model) == onnx.printer.to_text(expected)


def test_no_remark_survives():
    assert b"/folder/5" in noisy(5).SerializeToString()
    data = canonical(noisy(5)).SerializeToString()
    leftovers = [
        each for each in (b"/", b"where", b"s77", b"_5", b"domain", b"val") if each in data
    ]
    assert leftovers == [b"/"]  # of head/MatMul
    assert data.count(b"/") == 1


@given(st.integers(1, 2**16))
def test_names_remarks_and_order_do_not_count(seed):
    data = canonical(noisy(seed)).SerializeToString(deterministic=True)
    assert data == canonical(noisy(0)).SerializeToString(deterministic=True)


def test_the_computation_stays():
    expected = (2 * IMAGE + 2) @ WEIGHT.T
    np.testing.assert_allclose(run(noisy()), expected, rtol=1e-6)
    np.testing.assert_allclose(run(canonical(noisy())), expected, rtol=1e-6)


def test_a_second_time_changes_nothing():
    once = canonical(noisy())
    again = ModelProto()
    again.CopyFrom(once)
    again.graph.node[-1].metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['head', 'linear']"
    )
    canonicalise(again, axes=AXES)
    assert again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_functions_are_inlined_and_their_domain_goes():
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
        g (float[N,3] image, float[M,3] weight) => (float[N,M] logits)
        { logits = local.head (image, weight) }
        <domain: "local", opset_import: ["" : 18]>
        head (x, w) => (y) { t = Transpose (w)  y = MatMul (x, t) }"""
    )
    canonical(model)
    assert [node.op_type for node in model.graph.node] == ["Transpose", "MatMul"]
    assert not model.functions
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    np.testing.assert_allclose(run(model), IMAGE @ WEIGHT.T, rtol=1e-6)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("value_int", np.array(3, np.int64)),
        ("value_ints", np.array([3, 4], np.int64)),
        ("value_float", np.array(0.5, np.float32)),
        ("value_floats", np.array([0.5, 2], np.float32)),
    ],
)
def test_every_numeric_constant_becomes_an_initialiser(attribute, value):
    node = helper.make_node("Constant", [], ["k"], **{attribute: value.tolist()})
    cast = helper.make_node("Cast", ["k"], ["logits"], to=TensorProto.FLOAT)
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, list(value.shape))
    model = helper.make_model(
        helper.make_graph([node, cast], "g", [], [output]),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    canonical(model)
    (tensor,) = model.graph.initializer
    assert tensor.name == "Cast_input_0"
    array = numpy_helper.to_array(tensor)
    assert array.dtype == value.dtype
    np.testing.assert_array_equal(array, value)


def test_equal_numbers_of_other_types_or_shapes_stay_apart():
    arrays = [
        np.zeros(2, np.float32),
        np.zeros((1, 2), np.float32),
        np.zeros(2, np.int32),
        -np.zeros(2, np.float32),
        np.zeros(2, np.float32),
    ]
    names = [f"module.t{index}" for index in range(len(arrays))]
    casts = [
        helper.make_node("CastLike", [name, "image"], [f"f{index}"])
        for index, name in enumerate(names)
    ]
    total = helper.make_node("Sum", [f"f{index}" for index in range(len(arrays))], ["logits"])
    model = helper.make_model(
        helper.make_graph(
            [*casts, total],
            "g",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 2])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
            [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    canonical(model)
    assert [each.name for each in model.graph.initializer] == ["t0", "t1", "t2", "t3"]
    assert model.graph.node[4].input[0] == "t0"


def test_a_parameter_named_as_an_input_gets_another_name():
    model = noisy()
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("module.bias", "module.image")
    for node in model.graph.node:
        node.input[:] = [name.replace("module.bias", "module.image") for name in node.input]
    canonical(model)
    assert [each.name for each in model.graph.initializer] == ["image_1"]
    np.testing.assert_allclose(run(model), (2 * IMAGE + 2) @ WEIGHT.T, rtol=1e-6)


def test_a_graph_that_branches_is_refused():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["y"])],
        "b",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = noisy()
    model.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    )
    with pytest.raises(ExportError, match=r"branches at run time \(If\)"):
        canonical(model)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 20_000])
def test_a_canonical_model_is_written_as_protobuf_writes_it(size):
    model = noisy()
    tensor = numpy_helper.from_array(np.arange(size, dtype=np.float32), "module.weight")
    model.graph.initializer.append(tensor)
    model.graph.node.append(helper.make_node("Relu", ["module.weight"], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [size]))
    canonical(model)
    assert to_bytes(model) == model.SerializeToString(deterministic=True)
