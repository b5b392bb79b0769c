"""What a backbone's graph must be before it becomes a file: the rules, and the checks.

Owns the promises that the runtime and every later exporter rely on: names, types, symbolic axes,
standard operators only, nothing random, no resizing, layer normalisation in one piece::

    require_rules(model, source, layer_norms=25)
    require_valid(model.SerializeToString(deterministic=True))
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters.errors import ExportError

__all__ = ["BATCH", "CLASSES", "MAX_GRAPH_BYTES", "OPSET", "require_rules", "require_valid"]

OPSET = 18  # LayerNormalization as one node; ONNX Runtime 1.18 and TensorRT 10 read it
BATCH = "batch"
CLASSES = "classes"
MAX_GRAPH_BYTES = 2**31 - 1  # of one protobuf message
_MAX_IR_VERSION = 10  # ONNX Runtime 1.18
_SMALL = 64  # elements: shapes and axes are smaller, weights are larger

_RANDOM = frozenset(
    [
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    ]
)
_RESIZING = frozenset(["Resize", "Upsample"])

Shape: TypeAlias = tuple[int | str, ...]
"""Sizes of axes; a symbolic one by its name, an unknown one as ``"?"``."""


def require_rules(model: ModelProto, source: TorchSource, *, layer_norms: int) -> None:
    """Check that the canonical graph of ``source`` keeps every promise.

    Args:
        model: The graph, canonical.
        source: What it was made from.
        layer_norms: How often the module calls layer normalisation.

    Raises:
        ExportError: It does not; the message names the rule and the culprit.
    """
    _require_versions(model)
    _require_operators(model.graph.node)
    _require_single_precision(model.graph)
    _require_layer_norms(model.graph.node, layer_norms)
    _require_inputs(model.graph, source)
    _require_outputs(model.graph.output, source)
    _require_inferred(model)


def require_valid(data: bytes) -> None:
    """Run ONNX's own checker in full, shape inference included.

    Raises:
        ExportError: It finds a fault.
    """
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _broken(f"ONNX's checker refuses it: {_one_line(error)}") from error


def _broken(finding: str) -> ExportError:
    return ExportError(f"the exported graph cannot be used: {finding}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _require_versions(model: ModelProto) -> None:
    imports = {each.domain: each.version for each in model.opset_import}
    if imports != {"": OPSET}:
        raise _broken(f"it needs the operator sets {imports}, not {OPSET} of ai.onnx alone")
    if model.ir_version > _MAX_IR_VERSION:
        raise _broken(f"its IR version is {model.ir_version}, above {_MAX_IR_VERSION}")
    if model.functions:
        raise _broken(f"it holds the function {model.functions[0].name}, not inlined")


def _require_operators(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        if node.domain:
            raise _broken(f"{node.name} is no standard operator, but of {node.domain}")
        if node.op_type in _RESIZING:
            raise _broken(
                f"{node.name} resizes at run time, which TensorRT does not do as torch does: fold "
                "position embeddings for the image size first"
            )
        if node.op_type in _RANDOM:
            raise _broken(f"{node.name} draws random numbers: put the module in evaluation mode")


def _require_single_precision(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            raise _broken(f"{tensor.name} is float64: keep the module's tensors float32")
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.DOUBLE:
                raise _broken(f"{node.name} converts to float64: compute in float32")


def _require_layer_norms(nodes: Iterable[NodeProto], calls: int) -> None:
    """Refuse a normalisation in pieces: half precision overflows in them, engines miss them.

    Two equal calls may have become one node, so a smaller number alone proves nothing.
    """
    counts = Counter(node.op_type for node in nodes)
    if counts["LayerNormalization"] < calls and counts["ReduceMean"]:
        raise _broken(
            f"{calls} layer normalisations became {counts['LayerNormalization']} nodes and "
            f"{counts['ReduceMean']} ReduceMean: another version of torch or onnxscript may help"
        )


def _require_inputs(graph: GraphProto, source: TorchSource) -> None:
    expected: dict[str, Shape] = {source.image.name: (BATCH, *source.image.shape)}
    for each in source.class_inputs:
        before, after = each.slice_shape[: each.class_axis], each.slice_shape[each.class_axis :]
        expected[each.name] = (*before, CLASSES, *after)
    names = [value.name for value in graph.input]
    if names != list(expected):
        raise _broken(f"its inputs are {names}, not {list(expected)}")
    used = {name for node in graph.node for name in node.input}
    for value in graph.input:
        _require_float32(value)
        if _shape(value) != expected[value.name]:
            raise _broken(f"input {value.name} is {_shape(value)}, not {expected[value.name]}")
        if value.name not in used:
            raise _broken(f"input {value.name} reaches no output: the module ignores it")


def _require_outputs(outputs: Sequence[ValueInfoProto], source: TorchSource) -> None:
    names = [value.name for value in outputs]
    if names != ["logits", "embedding"]:
        raise _broken(f"its outputs are {names}, not logits and embedding")
    for value in outputs:
        _require_float32(value)
        shape = _shape(value)
        classes = value.name == "logits" and bool(source.class_inputs)
        second: object = CLASSES if classes else "a number"
        if shape[:1] != (BATCH,) or len(shape) != 2:  # noqa: PLR2004
            raise _broken(f"output {value.name} is {shape}, not ({BATCH}, {second})")
        if shape[1] != CLASSES if classes else isinstance(shape[1], str):
            raise _broken(f"output {value.name} is {shape}, not ({BATCH}, {second})")


def _require_float32(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        dtype = helper.tensor_dtype_to_string(value.type.tensor_type.elem_type)
        raise _broken(f"{value.name} is {dtype}, not float32")


def _shape(value: ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)


def _require_inferred(model: ModelProto) -> None:
    """Check that the outputs' declared shapes follow from the nodes.

    Declared symbolic axes prove nothing: a graph may say ``classes`` and still end in a Reshape
    to 5. So the declarations go, and shape inference must not find a number where they were.
    """
    skeleton = _skeleton(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise _broken(f"its shapes do not fit: {_one_line(error)}") from error
    for declared, found in zip(model.graph.output, inferred.graph.output, strict=True):
        for axis, (name, size) in enumerate(zip(_shape(declared), _shape(found), strict=False)):
            if isinstance(size, int) and size != name:
                raise _broken(f"axis {axis} of output {declared.name} is always {size}, not {name}")


def _skeleton(model: ModelProto) -> ModelProto:
    """Copy the graph without its weights, which become inputs, and without its outputs' shapes."""
    graph = model.graph
    inputs, constants = list(graph.input), []
    for tensor in graph.initializer:
        if _elements(tensor) <= _SMALL:
            constants.append(tensor)
        else:
            inputs.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    outputs = [
        helper.make_tensor_value_info(each.name, each.type.tensor_type.elem_type, None)
        for each in graph.output
    ]
    skeleton = helper.make_graph(graph.node, graph.name, inputs, outputs, constants)
    return helper.make_model(
        skeleton, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def _elements(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
