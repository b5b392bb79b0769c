"""From opset 18 to 23: attention and GELU as one node each.

Owns the patterns. An engine or a runtime that knows the two nodes need not find them again::

    to_opset23(model)      # in place; tells how many attentions became one node

``softmax((q * scale) @ k.T + bias) @ v`` becomes ``Attention(q, k, v, bias, scale=scale)``, and
``x * (1 + erf(x / sqrt 2)) / 2`` becomes ``Gelu(x)``.
"""

import math
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from pfm_edge_exporters._canonical import tidy
from pfm_edge_exporters._wiring import Wiring
from pfm_edge_exporters.errors import ExportError

__all__ = ["OPSET_23", "to_opset23"]

OPSET_23 = 23
_SWAPPED = [0, 1, 3, 2]
_HEADS_RANK = 4  # batch, heads, tokens, head size


def to_opset23(model: ModelProto) -> int:
    """Fuse attention and GELU, in place.

    Args:
        model: Canonical, opset 18, float32. What its operators mean did not change since.

    Returns:
        The number of attentions that became one node.

    Raises:
        ExportError: None did.
    """
    matcher = _Matcher(model)
    fused = {each.end: each for each in matcher.attentions()}
    gelus = dict(matcher.gelus())
    if not fused:
        raise ExportError(
            "no attention of this model has the form of ONNX's Attention: export without --opset23"
        )
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        name = node.output[0]
        if name in fused:
            nodes += fused[name].nodes()
        elif name in gelus:
            nodes.append(helper.make_node("Gelu", [gelus[name]], [name], f"{name}/Gelu"))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for each in model.opset_import:
        if not each.domain:
            each.version = OPSET_23
    tidy(model)
    return len(fused)


@dataclass(frozen=True, slots=True)
class _Fused:
    """One attention, found: the names of its values.

    Attributes:
        query: ``[batch, heads, queries, head size]``, not scaled.
        transposed_key: ``[batch, heads, head size, keys]``.
        value: ``[batch, heads, keys, head size]``.
        bias: What is added to the scores, or nothing.
        scale: What the products are multiplied by.
        end: What it gives.
        key: The key itself, where the graph has it.
    """

    query: str
    transposed_key: str
    value: str
    bias: str
    scale: float
    end: str
    key: str

    def nodes(self) -> list[NodeProto]:
        key, before = self.key, []
        if not key:
            key = f"{self.end}/key"
            before.append(
                helper.make_node(
                    "Transpose", [self.transposed_key], [key], f"{key}/Transpose", perm=_SWAPPED
                )
            )
        inputs = [self.query, key, self.value, *([self.bias] if self.bias else [])]
        name = f"{self.end}/Attention"
        attention = helper.make_node("Attention", inputs, [self.end], name, scale=self.scale)
        return [*before, attention]


class _Matcher:
    """Finds the patterns; a value that something else reads too belongs to none."""

    def __init__(self, model: ModelProto) -> None:
        self._wiring = Wiring.of(model)
        self._numbers = {
            tensor.name: float(numpy_helper.to_array(tensor).reshape(()))
            for tensor in model.graph.initializer
            if math.prod(tensor.dims) == 1 and self._wiring.is_float(tensor.name)
        }

    def attentions(self) -> list[_Fused]:
        """Find every attention that ONNX's node describes."""
        found = (self._attention(each) for each in self._wiring.nodes if each.op_type == "Softmax")
        return [each for each in found if each is not None]

    def gelus(self) -> list[tuple[str, str]]:
        """Find every GELU: the name of what it gives, and of what it takes."""
        found = (self._gelu(each) for each in self._wiring.nodes if each.op_type == "Erf")
        return [each for each in found if each is not None]

    def _attention(self, softmax: NodeProto) -> _Fused | None:
        scores, bias = self._only(softmax.input[0]), ""
        if scores is not None and scores.op_type == "Add":
            first, second = scores.input
            scores, bias = self._only(first), second
        weighted = self._only_reader(softmax.output[0], "MatMul")
        if scores is None or scores.op_type != "MatMul" or weighted is None:
            return None
        if weighted.input[0] != softmax.output[0] or not self._has_heads(scores, bias):
            return None
        query, scale = self._without_scale(scores.input[0])
        return _Fused(
            query=query,
            transposed_key=scores.input[1],
            value=weighted.input[1],
            bias=bias,
            scale=scale,
            end=weighted.output[0],
            key=self._without_transpose(scores.input[1]),
        )

    def _has_heads(self, scores: NodeProto, bias: str) -> bool:
        ranks = {len(self._wiring.shapes.get(name, ())) for name in scores.input}
        bias_fits = not bias or len(self._wiring.shapes.get(bias, ())) == _HEADS_RANK
        return ranks == {_HEADS_RANK} and bias_fits

    def _only(self, name: str) -> NodeProto | None:
        """Return what makes a value, if only one node reads it."""
        if len(self._wiring.readers.get(name, ())) != 1:
            return None
        return self._wiring.makers.get(name)

    def _only_reader(self, name: str, op_type: str) -> NodeProto | None:
        readers = self._wiring.readers.get(name, ())
        if len(readers) != 1 or readers[0].op_type != op_type or name in self._wiring.outputs:
            return None
        return readers[0]

    def _without_scale(self, query: str) -> tuple[str, float]:
        node = self._only(query)
        if node is not None and node.op_type == "Mul":
            for scaled, number in (node.input, reversed(node.input)):
                if number in self._numbers:
                    return scaled, self._numbers[number]
        return query, 1.0

    def _without_transpose(self, key: str) -> str:
        node = self._wiring.makers.get(key)
        if node is None or node.op_type != "Transpose":
            return ""
        return node.input[0] if list(node.attribute[0].ints) == _SWAPPED else ""

    def _gelu(self, erf: NodeProto) -> tuple[str, str] | None:
        root = self._only(erf.input[0])
        if root is None or root.op_type not in {"Div", "Mul"}:
            return None
        x, number = root.input
        wanted = math.sqrt(2) if root.op_type == "Div" else math.sqrt(0.5)
        shifted = self._only_reader(erf.output[0], "Add")
        if not self._is(number, wanted) or shifted is None:
            return None
        if not any(self._is(name, 1.0) for name in shifted.input):
            return None
        end = self._multiplied(shifted.output[0], x)
        return None if end is None else (end, x)

    def _multiplied(self, name: str, x: str) -> str | None:
        """Follow a value through two products, by a half and by x in either order."""
        left = {"half", "x"}
        while left:
            node = self._only_reader(name, "Mul")
            if node is None:
                return None
            other = next((factor for factor in node.input if factor != name), name)
            factor = "x" if other == x else "half" if self._is(other, 0.5) else "another"
            if factor not in left:
                return None
            left.remove(factor)
            name = node.output[0]
        return name

    def _is(self, name: str, value: float) -> bool:
        return name in self._numbers and bool(np.isclose(self._numbers[name], value, rtol=1e-6))
