"""One spelling for an ONNX graph: equal computations give equal bytes.

Owns the clean-up between an exporter and a file. Nothing here changes what the graph computes;
what goes is everything that depends on the machine, the folder or the exporter's mood (stack
traces with source paths, counters in names, unused and repeated tensors)::

    canonicalise(model, axes={"image": {0: "batch"}}, prefix="module.")
    data = to_bytes(model)
"""

import ast
import hashlib
from collections.abc import Iterable, Mapping, Set
from io import BytesIO

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    inliner,
    numpy_helper,
)

from pfm_edge_exporters._fold import fold
from pfm_edge_exporters.errors import ExportError

__all__ = ["canonicalise", "tidy", "to_bytes"]

_GRAPH, _INITIALIZER = 7, 5  # numbers of fields, in ModelProto and in GraphProto
_LENGTH_DELIMITED = 2  # protobuf's wire type

_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch keeps a node's path of modules


def canonicalise(
    model: ModelProto, *, axes: Mapping[str, Mapping[int, str]], prefix: str = ""
) -> None:
    """Bring ``model`` into its one spelling, in place.

    Functions are inlined, constants become initialisers, what depends on no input is computed, what
    reaches no output goes, equal initialisers become one. Nodes and values are named after the
    module and the operator that they come from (``blocks.0.norm1/LayerNormalization``), parameters
    keep their names.

    Args:
        model: The model; its initialisers keep their data in the model itself.
        axes: Names for the symbolic axes of the graph's inputs, by input and index.
        prefix: What initialisers start with that are parameters; it is cut from their names and
            from the modules'.

    Raises:
        ExportError: The graph has control flow, which has no place in a backbone.
    """
    if model.functions:
        model.CopyFrom(inliner.inline_local_functions(model))
    graph = model.graph
    _require_flat(graph)
    for node in graph.node:
        node.name = _module_path(node, prefix)
    _lift_constants(graph)
    fold(model)
    _prune(graph)
    _merge_initialisers(graph, prefix)
    _name_axes(graph, axes)
    _rename(graph, prefix)
    _strip(graph)
    _set_header(model)


def tidy(model: ModelProto) -> None:
    """Bring a canonical graph that a pass has changed back into its one spelling, in place.

    Nodes and values keep their names; what reaches no output goes, and equal tensors become one.
    """
    _prune(model.graph)
    _merge_initialisers(model.graph, "")
    _strip(model.graph)
    _set_header(model)


def to_bytes(model: ModelProto) -> bytes:
    """Serialise a canonical model as protobuf does, with one copy of its weights.

    Protobuf itself needs two on the way. Here the weights are written one after another between
    what comes before and after them; protobuf writes fields in the order of their numbers.
    """
    graph = model.graph
    head = GraphProto(node=graph.node, name=graph.name)
    tail = GraphProto(input=graph.input, output=graph.output)
    begin = ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    end = ModelProto(opset_import=model.opset_import)
    first, last, opening, closing = (
        each.SerializeToString(deterministic=True) for each in (head, tail, begin, end)
    )
    tensors = [(each, _prefix(_INITIALIZER, each.ByteSize())) for each in graph.initializer]
    inside = len(first) + len(last) + sum(len(p) + each.ByteSize() for each, p in tensors)
    out = BytesIO()
    out.write(opening + _prefix(_GRAPH, inside) + first)
    for tensor, prefix in tensors:
        out.write(prefix)
        out.write(tensor.SerializeToString(deterministic=True))
    out.write(last + closing)
    return out.getvalue()  # what it holds, not a copy


def _prefix(field: int, length: int) -> bytes:
    """Return what stands before the bytes of a message or text: its field, and how many follow."""
    numbers = (field << 3 | _LENGTH_DELIMITED, length)
    return b"".join(map(_varint, numbers))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 (seven bits in each byte)
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _require_flat(graph: GraphProto) -> None:
    kinds = {AttributeProto.GRAPH, AttributeProto.GRAPHS}
    for node in graph.node:
        if any(attribute.type in kinds for attribute in node.attribute):
            raise ExportError(
                f"the graph branches at run time ({node.op_type}): write the model without control "
                "flow that depends on tensors"
            )


def _module_path(node: NodeProto, prefix: str) -> str:
    """Return the path of the module that made the node: ``"blocks.0.norm1"``, or nothing."""
    recorded = next((each.value for each in node.metadata_props if each.key == _SCOPES), "[]")
    scopes: list[str] = ast.literal_eval(recorded)
    enclosing = scopes[-2::-1]  # innermost first; the last one is the call inside the module
    return next((each.removeprefix(prefix) for each in enclosing if each.startswith(prefix)), "")


def _lift_constants(graph: GraphProto) -> None:
    """Turn Constant nodes into initialisers, which can be compared and merged."""
    kept: list[NodeProto] = []
    for node in graph.node:
        tensor = _constant_value(node.attribute[0]) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    _set_nodes(graph, kept)


def _constant_value(attribute: AttributeProto) -> TensorProto | None:
    match attribute.name:
        case "value":
            return attribute.t
        case "value_int":
            return numpy_helper.from_array(np.array(attribute.i, np.int64))
        case "value_ints":
            return numpy_helper.from_array(np.array(attribute.ints, np.int64))
        case "value_float":
            return numpy_helper.from_array(np.array(attribute.f, np.float32))
        case "value_floats":
            return numpy_helper.from_array(np.array(attribute.floats, np.float32))
    return None  # text and sparse constants stay nodes


def _set_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _prune(graph: GraphProto) -> None:
    """Drop the nodes and initialisers that reach no output."""
    needed = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(name for name in node.output if name):
            kept.append(node)
            needed.update(node.input)
    _set_nodes(graph, kept[::-1])
    _drop_initialisers(graph, {each.name for each in graph.initializer} - needed)


def _drop_initialisers(graph: GraphProto, names: Set[str]) -> None:
    # One by one and in place: a list of the others would be a second copy of the weights.
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in names:
            del graph.initializer[index]


def _merge_initialisers(graph: GraphProto, prefix: str) -> None:
    """Let equal tensors be one, under a parameter's name if one has it; order by first use."""
    first: dict[tuple[object, ...], str] = {}
    merged: dict[str, str] = {}
    for tensor in sorted(graph.initializer, key=lambda each: not each.name.startswith(prefix)):
        _store_raw(tensor)
        content = hashlib.sha256(tensor.raw_data).digest()
        name = first.setdefault((tensor.data_type, *tensor.dims, content), tensor.name)
        if name != tensor.name:
            merged[tensor.name] = name
    _drop_initialisers(graph, merged.keys())
    _rename_inputs(graph, merged)
    used = dict.fromkeys(name for node in graph.node for name in node.input)
    rank = {name: index for index, name in enumerate(used)}
    graph.initializer.sort(key=lambda each: rank.get(each.name, len(rank)))


def _store_raw(tensor: TensorProto) -> None:
    """Let the tensor's bytes be in ``raw_data``; there are two other places where they may be."""
    if not tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _rename_inputs(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _name_axes(graph: GraphProto, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Rename the symbols of the inputs' axes, wherever inputs and outputs use them."""
    names: dict[str, str] = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for index, name in axes.get(value.name, {}).items():
            if index < len(dims) and dims[index].dim_param:
                names.setdefault(dims[index].dim_param, name)
    for value in [*graph.input, *graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = names.get(dim.dim_param, dim.dim_param)


class _Names:
    """Hands out names, each once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def take(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def _rename(graph: GraphProto, prefix: str) -> None:
    """Name nodes and values by where they are; inputs and outputs of the graph keep theirs."""
    nodes = _Names()
    for node in graph.node:
        node.name = nodes.take("/".join(filter(None, (node.name, node.op_type))))
    names = _value_names(graph, prefix)
    _rename_inputs(graph, names)
    for node in graph.node:
        node.output[:] = [names[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]


def _value_names(graph: GraphProto, prefix: str) -> dict[str, str]:
    """Map every value's name to its new one, given the nodes' new names."""
    fixed = [each.name for each in [*graph.input, *graph.output]]
    values = _Names(fixed)
    names = {name: name for name in ("", *fixed)}
    for tensor in graph.initializer:
        if tensor.name.startswith(prefix):  # a parameter; the others are folded constants
            names[tensor.name] = values.take(tensor.name.removeprefix(prefix))
    for node in graph.node:  # in topological order: an unknown input is such a constant
        for side, ends in (("input", node.input), ("output", node.output)):
            for index, name in enumerate(ends):
                if name not in names:
                    names[name] = values.take(f"{node.name}_{side}_{index}")
    return names


def _strip(graph: GraphProto) -> None:
    """Drop every remark; what the graph computes is all that stays."""
    for field in ("doc_string", "metadata_props", "quantization_annotation", "value_info"):
        graph.ClearField(field)
    for value in [*graph.input, *graph.output]:
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        node.ClearField("overload")
        node.attribute.sort(key=lambda each: each.name)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")


def _set_header(model: ModelProto) -> None:
    for field in ("doc_string", "metadata_props", "producer_version", "training_info"):
        model.ClearField(field)
    for field in ("domain", "model_version", "functions"):
        model.ClearField(field)
    model.producer_name = "pfm-edge"
    model.graph.name = "backbone"
    used = {node.domain for node in model.graph.node}
    imports = sorted((each.domain, each.version) for each in model.opset_import)
    del model.opset_import[:]
    for domain, version in imports:
        if domain in used:
            model.opset_import.add(domain=domain, version=version)
    # The oldest that knows the operator set: the more runtimes read the file.
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
