"""Gated products of a SwiGLU: the numbers in a transformer that grow as a square.

Owns where they are, and the room that they need to pass through a product of half precision::

    room = make_room(model)          # in place; the model computes what it did
    room.full                        # values that must stay float32

Two activations of 300 make 90,000, and float16 ends at 65,504; so does what the next product of
weights makes of them. That product reads the gated values divided by 256 and its result is
multiplied by 256, both in float32 and both exact: it computes in half precision all the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from pfm_edge_exporters._wiring import ELEMENTWISE, Wiring

__all__ = ["Room", "gated_products", "make_room"]

# A power of two, so that only float16's own rounding is left: gated values to 16 million fit, and
# what is smaller than 1/64 is still held to 8e-6.
_ROOM = 256.0


@dataclass(frozen=True, slots=True)
class Room:
    """What was found, and what the casts must respect.

    Attributes:
        full: Names of values that must be computed in float32.
    """

    full: frozenset[str]


def gated_products(wiring: Wiring) -> Iterator[NodeProto]:
    """Find every product, number by number, of two activations that grow apart from each other.

    An activation function that is written as a product, like ``x * sigmoid(x)``, is none: both of
    its factors come from one value. Nor is a norm, which multiplies by one number for each row.
    """
    for node in wiring.nodes:
        if node.op_type == "Mul" and wiring.is_float(node.output[0]):
            factors = wiring.varying(node)
            alike = len({wiring.shapes.get(name) for name in factors}) == 1
            if alike and len({_root(wiring, name) for name in factors}) > 1:
                yield node


def _root(wiring: Wiring, name: str) -> str:
    """Follow a value to the one that it is a function of, number by number."""
    while True:
        maker = wiring.makers.get(name)
        if maker is None or maker.op_type not in ELEMENTWISE:
            return name
        roots = {_root(wiring, each) for each in wiring.varying(maker)}
        if len(roots) != 1:
            return name
        (name,) = roots


def make_room(model: ModelProto) -> Room:
    """Divide what is gated before each product of weights that reads it, and undo that behind it.

    Args:
        model: float32; changed in place.
    """
    wiring = Wiring.of(model)
    gates = {node.output[0] for node in gated_products(wiring)}
    full, nodes, made = set(gates), [], set[str]()
    for node in model.graph.node:
        gate = node.input[0] if node.input else ""
        if gate not in gates or node.op_type not in {"Gemm", "MatMul"}:
            nodes.append(node)
        elif node.op_type == "Gemm" or node.input[1] not in wiring.constants:
            full.add(node.output[0])  # no room for it: a Gemm adds a bias of its own
            nodes.append(node)
        else:
            if gate not in made:
                made.add(gate)
                nodes.append(_scaled(gate, f"{gate}/divided", "half/divisor"))
            end = node.output[0]
            node.input[0], node.output[0] = f"{gate}/divided", f"{end}/divided"
            nodes += [node, _scaled(f"{end}/divided", end, "half/factor")]
            full.add(end)
    if made:
        for name, value in (("half/divisor", 1 / _ROOM), ("half/factor", _ROOM)):
            tensor = numpy_helper.from_array(np.array(value, np.float32), name)
            model.graph.initializer.append(tensor)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return Room(frozenset(full))


def _scaled(source: str, end: str, factor: str) -> NodeProto:
    return helper.make_node("Mul", [source, factor], [end], f"{end}/Mul")
