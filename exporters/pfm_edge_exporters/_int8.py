"""From a float32 graph to eight-bit products, for CPUs that have instructions for them.

Owns how weights and activations become integers. Weights are symmetric int8 with a scale for each
column; activations are uint8, with one range for the whole tensor::

    to_int8(model)                   # dynamic: each run measures its own ranges
    to_int8(model, ranges)           # static: ranges that calibration measured

Products of weights alone are quantised. The patch embedding, attention, norms, softmax, the
residual stream and the classifier stay float32: they are a small share of the work and of the file,
and the part that does not bear it.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pfm_edge_exporters._wiring import Wiring
from pfm_edge_exporters.errors import ExportError

__all__ = ["Ranges", "quantised_products", "require_int8_rules", "to_int8"]

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""Smallest and largest activation that a product of weights reads, by the name of its output."""

_LEVELS = 127  # of a weight on either side of zero: -128 is not used, so that scales are symmetric
_STEPS = 255  # of an activation
_Q8, _U8 = np.int8, np.uint8


def quantised_products(wiring: Wiring) -> Iterator[NodeProto]:
    """Find the products that are quantised: of a matrix of weights, with something that varies."""
    for node in wiring.nodes:
        if node.op_type != "MatMul" or node.input[1] not in wiring.constants:
            continue
        if len(wiring.shapes[node.input[1]]) == 2 and node.input[0] not in wiring.constants:  # noqa: PLR2004
            yield node


def to_int8(model: ModelProto, ranges: Ranges | None = None) -> None:
    """Quantise the products of weights, in place.

    Args:
        model: float32.
        ranges: What calibration measured; without it, each run measures.

    Raises:
        ExportError: There is nothing to quantise, or a product was not calibrated.
    """
    wiring = Wiring.of(model)
    chosen = {node.output[0] for node in quantised_products(wiring)}
    if not chosen:
        raise ExportError("the graph has no product of weights that eight bits could speed up")
    if missing := chosen - (chosen if ranges is None else ranges.keys()):
        raise ExportError(f"calibration did not reach {min(missing)}")
    made = _Quantised(model.graph, ranges)
    for node in model.graph.node:
        if node.output[0] in chosen:
            made.product(node)
        else:
            made.nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(made.nodes)
    made.drop_weights()


class _Quantised:
    """The nodes of the quantised graph, in the order in which they are made."""

    def __init__(self, graph: GraphProto, ranges: Ranges | None) -> None:
        self.nodes: list[NodeProto] = []
        self._graph = graph
        self._ranges = ranges
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._weights: set[str] = set()
        self._activations: dict[str, str] = {}

    def product(self, node: NodeProto) -> None:
        """Add what replaces one product of weights."""
        source, weight = node.input
        if weight not in self._weights:
            self._weights.add(weight)
            self._add_weight(weight)
        if self._ranges is None:
            self._dynamic(node, source, weight)
        else:
            self._static(node, source, weight, self._ranges[node.output[0]])

    def drop_weights(self) -> None:
        """Drop the float32 weights that nothing reads any more."""
        read = {name for node in self.nodes for name in node.input}
        for index in reversed(range(len(self._graph.initializer))):
            name = self._graph.initializer[index].name
            if name in self._weights - read:
                del self._graph.initializer[index]

    def _add_weight(self, name: str) -> None:
        values, scales = _quantised(numpy_helper.to_array(self._tensors[name]))
        self._constant(f"{name}/int8", values)
        self._constant(f"{name}/scale", scales)

    def _constant(self, name: str, value: NDArray[np.generic]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(value, name))

    def _node(self, op_type: str, inputs: list[str], outputs: list[str]) -> NodeProto:
        self.nodes.append(helper.make_node(op_type, inputs, outputs, f"{outputs[0]}/{op_type}"))
        return self.nodes[-1]

    def _dynamic(self, node: NodeProto, source: str, weight: str) -> None:
        """Add ONNX's dynamic quantisation: what ONNX Runtime fuses into one kernel."""
        values, scale, zero = (f"{source}/{part}" for part in ("uint8", "scale", "zero"))
        if source not in self._activations:
            self._activations[source] = values
            self._node("DynamicQuantizeLinear", [source], [values, scale, zero])
        end = node.output[0]
        whole, wide, scales = (f"{end}/{part}" for part in ("int32", "float32", "scale"))
        self._node("MatMulInteger", [values, f"{weight}/int8", zero], [whole])
        cast = self._node("Cast", [whole], [wide])
        cast.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        self._node("Mul", [scale, f"{weight}/scale"], [scales])
        self._node("Mul", [wide, scales], [end])

    def _static(self, node: NodeProto, source: str, weight: str, span: tuple[float, float]) -> None:
        """Add a product between pairs of QuantizeLinear and DequantizeLinear."""
        if source not in self._activations:
            self._activations[source] = self._add_calibrated(source, span)
        wide = f"{weight}/float32"
        if wide not in self._activations:
            self._activations[wide] = wide
            zeros = np.zeros(self._tensors[weight].dims[1], _Q8)
            self._constant(f"{weight}/zero", zeros)
            parts = [f"{weight}/{part}" for part in ("int8", "scale", "zero")]
            by_column = self._node("DequantizeLinear", parts, [wide])
            by_column.attribute.append(helper.make_attribute("axis", 1))
        product = helper.make_node(
            "MatMul", [self._activations[source], wide], list(node.output), node.name
        )
        self.nodes.append(product)

    def _add_calibrated(self, source: str, span: tuple[float, float]) -> str:
        scale, zero = _affine(*span)
        self._constant(f"{source}/scale", scale)
        self._constant(f"{source}/zero", zero)
        ends = [f"{source}/scale", f"{source}/zero"]
        self._node("QuantizeLinear", [source, *ends], [f"{source}/uint8"])
        self._node("DequantizeLinear", [f"{source}/uint8", *ends], [f"{source}/float32"])
        return f"{source}/float32"


def _quantised(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 [k, n] and the scale of each column, float32 [n]; a column of zeros has 1."""
    largest = np.abs(weight).max(axis=0)
    scales = np.where(largest > 0, largest / np.float32(_LEVELS), np.float32(1))
    values = np.rint(weight / scales).clip(-_LEVELS, _LEVELS)
    return values.astype(_Q8), scales.astype(np.float32)


def _affine(low: float, high: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return scale and zero point of a range; zero itself is represented exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / _STEPS) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, _STEPS)
    return np.array(scale, np.float32), np.array(zero, _U8)


def require_int8_rules(model: ModelProto) -> None:
    """Check an eight-bit graph: every product of weights is quantised.

    Raises:
        ExportError: One is not.
    """
    for node in quantised_products(Wiring.of(model)):
        raise ExportError(
            f"the eight-bit graph cannot be used: {node.name} multiplies float32 weights"
        )
