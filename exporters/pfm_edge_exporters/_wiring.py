"""How a graph hangs together: who makes a value, who reads it, of which type and shape it is.

Owns the questions that every pass and every rule asks, above all where attention is::

    wiring = Wiring.of(model)
    for attention in wiring.attentions():
        attention.scores, attention.between, attention.softmax

A snapshot: whoever changes the graph makes another.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from pfm_edge_exporters.errors import ExportError

__all__ = [
    "ELEMENTWISE",
    "MOVING",
    "Attention",
    "Shape",
    "Wiring",
    "infer",
    "shape_of",
    "skeleton",
]

Shape: TypeAlias = tuple[int | str, ...]
"""Sizes of axes; a symbolic one by its name, an unknown one as ``"?"``."""

MOVING = frozenset(
    [
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Operators that move numbers and compute none."""

ELEMENTWISE = frozenset(
    ["Add", "Div", "Erf", "Gelu", "Mul", "Neg", "Relu", "Sigmoid", "Sub", "Tanh", "Where"]
)
"""Operators that compute each number by itself, and that a vision transformer uses."""

_SMALL = 64  # elements: shapes and axes are smaller, weights are larger


@dataclass(frozen=True, slots=True)
class Attention:
    """One softmax and where its scores come from.

    Attributes:
        softmax: The node.
        scores: The products of queries and keys that reach it.
        between: The nodes on the way from there to the softmax, in no order; neither end.
    """

    softmax: NodeProto
    scores: tuple[NodeProto, ...]
    between: tuple[NodeProto, ...]


@dataclass(frozen=True, slots=True)
class Wiring:
    """A graph's wires.

    Attributes:
        makers: The node that makes a value, by the value's name.
        readers: The nodes that read a value.
        constants: Names of the initialisers.
        types: ONNX's element type of every value.
        shapes: Shapes, where inference finds them.
        nodes: The nodes, in the graph's order.
        outputs: Names of the graph's outputs.
    """

    makers: Mapping[str, NodeProto]
    readers: Mapping[str, tuple[NodeProto, ...]]
    constants: frozenset[str]
    types: Mapping[str, int]
    shapes: Mapping[str, Shape]
    nodes: tuple[NodeProto, ...]
    outputs: frozenset[str]

    @classmethod
    def of(cls, model: ModelProto) -> "Wiring":
        """Look at a graph; the weights are not copied.

        Raises:
            ExportError: Types or shapes contradict each other.
        """
        graph = model.graph
        readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(filter(None, node.input)):
                readers.setdefault(name, []).append(node)
        known = _known_values(graph, infer(skeleton(model)).graph)
        return cls(
            makers={name: node for node in graph.node for name in node.output if name},
            readers={name: tuple(nodes) for name, nodes in readers.items()},
            constants=frozenset(tensor.name for tensor in graph.initializer),
            types={name: kind for name, (kind, _) in known.items()},
            shapes={name: shape for name, (_, shape) in known.items()},
            nodes=tuple(graph.node),
            outputs=frozenset(value.name for value in graph.output),
        )

    def is_float(self, name: str) -> bool:
        """Tell whether a value holds floats of any width."""
        return self.types.get(name) in {TensorProto.FLOAT, TensorProto.FLOAT16}

    def varying(self, node: NodeProto) -> list[str]:
        """Return the float inputs of a node that are no initialisers."""
        return [x for x in node.input if self.is_float(x) and x not in self.constants]

    def attentions(self) -> Iterator[Attention]:
        """Find every softmax, with the matrix products that make its scores."""
        for node in self.nodes:
            if node.op_type == "Softmax":
                yield self._attention(node)

    def behind_softmax(self) -> frozenset[str]:
        """Return the names of values that are a softmax's, perhaps moved."""
        found: set[str] = set()
        for node in self.nodes:
            if node.op_type == "Softmax" or (
                node.op_type in MOVING | {"Cast"} and not found.isdisjoint(node.input)
            ):
                found.update(node.output)
        return frozenset(found)

    def _attention(self, softmax: NodeProto) -> Attention:
        scores: dict[str, NodeProto] = {}
        between: dict[str, NodeProto] = {}
        seen: dict[str, bool] = {}

        def leads_to_scores(name: str) -> bool:
            if name not in seen:
                seen[name] = found(name)
            return seen[name]

        def found(name: str) -> bool:
            node = self.makers.get(name)
            if node is None:
                return False
            if node.op_type == "MatMul":
                scores[node.output[0]] = node
                return True
            if node.op_type not in MOVING | ELEMENTWISE | {"Cast"}:
                return False
            on_the_way = [leads_to_scores(each) for each in node.input]  # all, not the first
            if not any(on_the_way):
                return False
            between[node.output[0]] = node
            return True

        leads_to_scores(softmax.input[0])
        return Attention(softmax, tuple(scores.values()), tuple(between.values()))


def shape_of(value: ValueInfoProto) -> Shape:
    """Return the declared shape of a value."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)


def infer(model: ModelProto) -> ModelProto:
    """Run ONNX's shape inference, strictly and with the values of small tensors.

    Raises:
        ExportError: Types or shapes contradict each other.
    """
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"the exported graph cannot be used: its shapes do not fit: {reason}"
        ) from error


def skeleton(model: ModelProto, *, outputs: bool = True) -> ModelProto:
    """Copy the graph without its weights, which become inputs.

    Args:
        model: The graph; small initialisers stay, for they are shapes and axes.
        outputs: Whether the outputs keep their declared shapes.
    """
    graph = model.graph
    inputs, constants = list(graph.input), []
    for tensor in graph.initializer:
        if _elements(tensor) <= _SMALL:
            constants.append(tensor)
        else:
            inputs.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    promised = [
        each
        if outputs
        else helper.make_tensor_value_info(each.name, each.type.tensor_type.elem_type, None)
        for each in graph.output
    ]
    bare = helper.make_graph(graph.node, graph.name, inputs, promised, constants)
    return helper.make_model(bare, opset_imports=model.opset_import, ir_version=model.ir_version)


def _known_values(graph: GraphProto, inferred: GraphProto) -> dict[str, tuple[int, Shape]]:
    known = {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}
    for value in [*inferred.value_info, *inferred.output, *inferred.input]:
        known.setdefault(value.name, (value.type.tensor_type.elem_type, shape_of(value)))
    return known


def _elements(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
