"""What a backbone's graph must be before it becomes a file: the rules, and the checks.

Owns the promises that the runtime and every later exporter rely on: names, types, symbolic axes,
standard operators only, nothing random, no resizing, layer normalisation in one piece::

    require_rules(model, source, Variant("backbone.onnx", "fp32"), layer_norms=25)
    require_valid(model)
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters._wiring import Shape, infer, shape_of, skeleton
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.manifest import MASK_INPUT, Variant

__all__ = [
    "BATCH",
    "CLASSES",
    "MAX_GRAPH_BYTES",
    "OPSET",
    "require_rules",
    "require_valid",
]

OPSET = 18  # LayerNormalization as one node; ONNX Runtime 1.18 and TensorRT 10 read it
BATCH = "batch"
CLASSES = "classes"
MAX_GRAPH_BYTES = 2**31 - 1  # of one protobuf message
_MAX_IR_VERSIONS = {OPSET: 10, 23: 11}  # what ONNX Runtime 1.18 and 1.23 read

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


def require_rules(
    model: ModelProto, source: TorchSource, variant: Variant, *, layer_norms: int
) -> None:
    """Check that the canonical graph of ``source`` keeps every promise.

    Args:
        model: The graph, canonical.
        source: What it was made from.
        variant: What the graph is to be: its operator set, and which axes are fixed to what.
        layer_norms: How often the module calls layer normalisation.

    Raises:
        ExportError: It does not; the message names the rule and the culprit.
    """
    _require_versions(model, variant.opset)
    _require_operators(model.graph.node)
    _require_single_precision(model.graph)
    _require_layer_norms(model.graph.node, layer_norms)
    _require_inputs(model.graph, source, variant)
    _require_outputs(model.graph.output, source, variant)
    _require_inferred(model)


def require_valid(model: ModelProto) -> None:
    """Run ONNX's own checker in full, shape inference included.

    The graph and its weights are checked apart: the checker copies what it checks, and a copy of
    all weights at once is what an export would need the most memory for.

    Raises:
        ExportError: It finds a fault.
    """
    try:
        onnx.checker.check_model(skeleton(model), full_check=True)
        for tensor in model.graph.initializer:
            onnx.checker.check_tensor(tensor)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _broken(f"ONNX's checker refuses it: {_one_line(error)}") from error


def _broken(finding: str) -> ExportError:
    return ExportError(f"the exported graph cannot be used: {finding}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _require_versions(model: ModelProto, opset: int) -> None:
    imports = {each.domain: each.version for each in model.opset_import}
    if imports != {"": opset}:
        raise _broken(f"it needs the operator sets {imports}, not {opset} of ai.onnx alone")
    if model.ir_version > _MAX_IR_VERSIONS[opset]:
        raise _broken(f"its IR version is {model.ir_version}, above {_MAX_IR_VERSIONS[opset]}")
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


def _require_inputs(graph: GraphProto, source: TorchSource, variant: Variant) -> None:
    expected = _expected_inputs(source, variant)
    names = [value.name for value in graph.input]
    if names != list(expected):
        raise _broken(f"its inputs are {names}, not {list(expected)}")
    used = {name for node in graph.node for name in node.input}
    for value in graph.input:
        kind, shape = expected[value.name]
        _require_type(value, kind)
        if shape_of(value) != shape:
            raise _broken(f"input {value.name} is {shape_of(value)}, not {shape}")
        if value.name not in used:
            raise _broken(f"input {value.name} reaches no output: the module ignores it")


def _expected_inputs(source: TorchSource, variant: Variant) -> dict[str, tuple[int, Shape]]:
    classes: int | str = variant.capacity or CLASSES
    pixels = TensorProto.UINT8 if source.image.dtype == "uint8" else TensorProto.FLOAT
    expected: dict[str, tuple[int, Shape]] = {
        source.image.name: (pixels, (variant.batch or BATCH, *source.image.shape))
    }
    for each in source.class_inputs:
        before, after = each.slice_shape[: each.class_axis], each.slice_shape[each.class_axis :]
        expected[each.name] = (TensorProto.FLOAT, (*before, classes, *after))
    if variant.capacity is not None:
        expected[MASK_INPUT] = (TensorProto.BOOL, (variant.capacity,))
    return expected


def _require_outputs(
    outputs: Sequence[ValueInfoProto], source: TorchSource, variant: Variant
) -> None:
    names = [value.name for value in outputs]
    if names != ["logits", "embedding"]:
        raise _broken(f"its outputs are {names}, not logits and embedding")
    batch, classes = variant.batch or BATCH, variant.capacity or CLASSES
    for value in outputs:
        _require_type(value, TensorProto.FLOAT)
        shape = shape_of(value)
        counted = value.name == "logits" and bool(source.class_inputs)
        second: object = classes if counted else "a number"
        if shape[:1] != (batch,) or len(shape) != 2:  # noqa: PLR2004
            raise _broken(f"output {value.name} is {shape}, not ({batch}, {second})")
        if shape[1] != classes if counted else isinstance(shape[1], str):
            raise _broken(f"output {value.name} is {shape}, not ({batch}, {second})")


def _require_type(value: ValueInfoProto, kind: int) -> None:
    found, wanted = (
        helper.tensor_dtype_to_np_dtype(each).name
        for each in (value.type.tensor_type.elem_type, kind)
    )
    if found != wanted:
        raise _broken(f"{value.name} is {found}, not {wanted}")


def _require_inferred(model: ModelProto) -> None:
    """Check that the outputs' declared shapes follow from the nodes.

    Declared symbolic axes prove nothing: a graph may say ``classes`` and still end in a Reshape
    to 5. So the declarations go, and shape inference must not find a number where they were.
    """
    inferred = infer(skeleton(model, outputs=False))
    for declared, found in zip(model.graph.output, inferred.graph.output, strict=True):
        for axis, (name, size) in enumerate(zip(shape_of(declared), shape_of(found), strict=False)):
            if isinstance(size, int) and size != name:
                raise _broken(f"axis {axis} of output {declared.name} is always {size}, not {name}")
