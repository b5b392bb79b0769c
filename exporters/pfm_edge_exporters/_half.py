"""From a float32 graph to half precision, with what half precision cannot hold left in float32.

Owns where the casts go, and the rules that the result is checked against::

    to_half(model)                  # in place
    require_half_rules(model)

Weights' products run in float16: linear layers, the patch embedding, attention's weighted sum.
Float32 stay the layer normalisations, the attention scores from the queries and keys on, softmax,
gated products (``_gates`` gives what reads them room), the residual stream with its layer scales,
and the classifier, so that neither a massive activation nor a small scale is lost. Inputs and
outputs keep their types: one bundle serves every precision.
"""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pfm_edge_exporters._gates import gated_products, make_room
from pfm_edge_exporters._wiring import ELEMENTWISE, MOVING, Wiring
from pfm_edge_exporters.errors import ExportError

__all__ = ["require_half_rules", "to_half"]

_HALF, _FULL = TensorProto.FLOAT16, TensorProto.FLOAT
_PRODUCTS = frozenset(["Conv", "Gemm", "MatMul"])
_PICKING = frozenset(["Gather", "Slice"])
_NEVER_HALF = frozenset(
    ["LayerNormalization", "LogSoftmax", "RMSNormalization", "ReduceL2", "ReduceMean", "Softmax"]
)


def to_half(model: ModelProto) -> None:
    """Let a float32 graph compute in half precision where that is safe, in place.

    Raises:
        ExportError: A weight is too large for float16.
    """
    room = make_room(model)
    wiring = Wiring.of(model)
    half = _Choice(wiring, room.full).half_nodes()
    _Casts(model.graph, wiring, half).insert()


class _Choice:
    """Decides for each node whether it computes in half precision.

    Forwards first: products of weights do, what only moves or maps numbers follows its inputs, and
    everything else does not. Backwards then: what is read in float32 alone is computed in it, from
    the nearest product on, and what was only moved is moved in the width in which it is read.
    """

    def __init__(self, wiring: Wiring, full: frozenset[str]) -> None:
        self._wiring = wiring
        self._half: set[str] = set()  # nodes, by their first output
        self._full = full
        self._behind_softmax = wiring.behind_softmax()
        self._scores = {
            node.output[0]
            for attention in wiring.attentions()
            for node in (*attention.scores, *attention.between)
        }

    def half_nodes(self) -> frozenset[str]:
        """Return the nodes that compute in float16, each by the name of its first output."""
        nodes = [node for node in self._wiring.nodes if self._wiring.is_float(node.output[0])]
        for node in nodes:
            if self._starts_half(node):
                self._half.add(node.output[0])
        for node in reversed(nodes):
            self._follow_readers(node)
        return frozenset(self._half)

    def _starts_half(self, node: NodeProto) -> bool:
        varying = self._wiring.varying(node)
        if node.output[0] in self._scores | self._full:
            return False
        if node.op_type in _PRODUCTS:
            weighted = len(varying) < 2  # noqa: PLR2004 (the classifier multiplies two inputs)
            return weighted or not self._behind_softmax.isdisjoint(node.input)
        if node.op_type not in MOVING | ELEMENTWISE:
            return False
        if node.op_type in {"Add", "Sub"} and len(varying) > 1:
            return False  # the residual stream
        return all(self._is_half(name) for name in varying)

    def _is_half(self, name: str) -> bool:
        maker = self._wiring.makers.get(name)
        return maker is not None and maker.output[0] in self._half

    def _follow_readers(self, node: NodeProto) -> None:
        name = node.output[0]
        moves = node.op_type in MOVING | {"Cast"}
        if name in self._scores | self._full or not (moves or node.op_type in ELEMENTWISE):
            return
        wanted = self._wanted(node)
        if wanted == {_FULL} and not self._is_bias(node) and not self._takes_part(node):
            self._half.discard(name)
        elif wanted == {_HALF} and moves:
            self._half.add(name)

    def _wanted(self, node: NodeProto) -> set[int]:
        """Return the widths in which a node's outputs are read."""
        wanted: set[int] = set()
        for name in node.output:
            if name in self._wiring.outputs:
                wanted.add(_FULL)
            for reader in self._wiring.readers.get(name, ()):
                if reader.op_type != "Shape":  # which reads any width
                    wanted.add(_HALF if reader.output[0] in self._half else _FULL)
        return wanted

    def _takes_part(self, node: NodeProto) -> bool:
        """Tell whether a node picks a part of what others read in float16: no need to cast all."""
        readers = self._wiring.readers[node.input[0]]
        return node.op_type in _PICKING and any(
            each.output[0] in self._half for each in readers if each is not node
        )

    def _is_bias(self, node: NodeProto) -> bool:
        """Tell whether a node adds a product's bias, which engines do in the product itself."""
        makers = (self._wiring.makers.get(name) for name in self._wiring.varying(node))
        return node.op_type == "Add" and any(m and m.op_type in _PRODUCTS for m in makers)


class _Casts:
    """Puts the casts where a value is read in another width than it has, one for all readers."""

    def __init__(self, graph: GraphProto, wiring: Wiring, half: frozenset[str]) -> None:
        self._graph = graph
        self._wiring = wiring
        self._half = half
        self._nodes: list[NodeProto] = []
        self._made: dict[str, str] = {}

    def insert(self) -> None:
        shared = self._convert_constants()
        for node in self._graph.node:
            kind = self._width(node)
            if node.op_type == "Cast" and not self._wiring.is_float(node.input[0]):
                _retarget(node, kind)
            elif node.op_type != "Shape":  # which reads any width
                self._convert_inputs(node, kind, shared)
            self._nodes.append(node)
        for name in sorted(self._wiring.outputs):
            if self._width(self._wiring.makers[name]) == _HALF:
                self._widen_output(name)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)

    def _width(self, node: NodeProto | None) -> int:
        return _HALF if node is not None and node.output[0] in self._half else _FULL

    def _convert_inputs(self, node: NodeProto, kind: int, shared: frozenset[str]) -> None:
        for index, name in enumerate(node.input):
            if not self._wiring.is_float(name):
                continue
            if name in self._wiring.constants:
                if kind == _HALF and name in shared:
                    node.input[index] = _half_name(name)
            elif self._width(self._wiring.makers.get(name)) != kind:
                node.input[index] = self._cast(name, kind)

    def _cast(self, name: str, kind: int) -> str:
        if name not in self._made:
            made = self._made[name] = f"{name}/{'float16' if kind == _HALF else 'float32'}"
            self._nodes.append(helper.make_node("Cast", [name], [made], f"{made}/Cast", to=kind))
        return self._made[name]

    def _widen_output(self, name: str) -> None:
        inner = f"{name}/float16"
        for node in self._nodes:
            node.output[:] = [inner if each == name else each for each in node.output]
            node.input[:] = [inner if each == name else each for each in node.input]
        self._nodes.append(helper.make_node("Cast", [inner], [name], f"{name}/Cast", to=_FULL))

    def _convert_constants(self) -> frozenset[str]:
        """Round the initialisers that are read in float16; return those read in float32 too.

        In place, one after another: the weights are never in memory twice.
        """
        widths: dict[str, set[int]] = {}
        for node in self._graph.node:
            for name in node.input:
                widths.setdefault(name, set()).add(self._width(node))
        for tensor in list(self._graph.initializer):
            read_in = widths.get(tensor.name, set())
            if not self._wiring.is_float(tensor.name) or _HALF not in read_in:
                continue
            if _FULL in read_in:
                self._graph.initializer.append(_rounded(tensor, _half_name(tensor.name)))
            else:
                tensor.CopyFrom(_rounded(tensor, tensor.name))
        return frozenset(name for name, found in widths.items() if len(found) > 1)


def _half_name(name: str) -> str:
    return f"{name}.float16"


def _retarget(cast: NodeProto, kind: int) -> None:
    for attribute in cast.attribute:
        if attribute.name == "to" and attribute.i == _FULL:
            attribute.i = kind


def _rounded(tensor: TensorProto, name: str) -> TensorProto:
    array = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ExportError(
            f"{tensor.name} holds {np.abs(array).max():.3g}, and half precision ends at 65504: "
            "export this model without --precision fp16"
        )
    return numpy_helper.from_array(rounded, name)


def require_half_rules(model: ModelProto) -> None:
    """Check a half-precision graph: what collapses in float16 on some engine is not in float16.

    Raises:
        ExportError: A layer normalisation, a softmax or the product of queries and keys computes
            in float16, or that of two activations, a cast lies between scores and softmax, or
            nothing at all is in float16.
    """
    wiring = Wiring.of(model)
    kinds = wiring.types
    for node in wiring.nodes:
        if node.op_type in _NEVER_HALF and _HALF in {kinds.get(name) for name in node.input}:
            raise _broken(f"{node.name} computes in float16")
    _require_full_attention(wiring)
    for gate in gated_products(wiring):
        if kinds.get(gate.output[0]) == _HALF:
            raise _broken(f"{gate.name} multiplies two activations in float16")
    products = [node for node in wiring.nodes if node.op_type in _PRODUCTS]
    if not any(kinds.get(node.output[0]) == _HALF for node in products):
        raise _broken("no product computes in float16")


def _require_full_attention(wiring: Wiring) -> None:
    for attention in wiring.attentions():
        if not attention.scores:
            raise _broken(f"{attention.softmax.name} has no product of queries and keys before it")
        for score in attention.scores:
            if {wiring.types.get(name) for name in score.input} != {_FULL}:
                raise _broken(f"{score.name} multiplies queries and keys in float16")
        if cast := next((n for n in attention.between if n.op_type == "Cast"), None):
            raise _broken(f"{cast.name} lies between the scores and {attention.softmax.name}")


def _broken(finding: str) -> ExportError:
    return ExportError(f"the half-precision graph cannot be used: {finding}")
