"""Computing at export what is the same for every input.

Owns constant folding: sizes that are known become numbers, nodes that read constants alone become
their results, and an expansion to the shape that a value has already goes::

    fold(model)     # in place

A result that is much larger than what it is made of is left to the runtime: a file is downloaded
more often than a table is repeated.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pfm_edge_exporters._wiring import MOVING, Shape, Wiring

__all__ = ["fold"]

_COMPUTED = MOVING | frozenset(["Add", "Cast", "Div", "Equal", "Mul", "Range", "Sub", "Where"])
_GROWTH = 1.25  # of a result over its largest input
_SMALL = 64  # elements, which may always be stored


def fold(model: ModelProto) -> None:
    """Fold what does not depend on the graph's inputs, in place.

    Raises:
        ExportError: Types or shapes contradict each other.
    """
    before = None
    while (count := len(model.graph.node)) != before:  # a size that is known makes others known
        before = count
        _fold_once(model)


def _fold_once(model: ModelProto) -> None:
    wiring = Wiring.of(model)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    same: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if wiring.outputs.isdisjoint(node.output):
            if _changes_nothing(node, wiring):
                same[node.output[0]] = node.input[0]
                continue
            if made := _results(node, wiring.shapes, constants, model):
                constants |= {tensor.name: tensor for tensor in made}
                graph.initializer.extend(made)
                continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _changes_nothing(node: NodeProto, wiring: Wiring) -> bool:
    """Tell whether a node gives what it takes: its input, or an expansion to the same shape."""
    if node.op_type == "Identity":
        return True
    before, after = (wiring.shapes.get(name) for name in (node.input[0], node.output[0]))
    if node.op_type != "Expand" or before is None or after is None:
        return False
    return before == after and all(isinstance(size, int) for size in before)


def _results(
    node: NodeProto,
    shapes: Mapping[str, Shape],
    constants: Mapping[str, TensorProto],
    model: ModelProto,
) -> list[TensorProto]:
    """Return what a node gives whatever the inputs are; nothing where that is open, or large."""
    if node.op_type == "Shape":
        size = _known_size(node, shapes.get(node.input[0]))
        return [] if size is None else [numpy_helper.from_array(size, node.output[0])]
    names = list(dict.fromkeys(filter(None, node.input)))
    if node.op_type not in _COMPUTED or not names or not all(name in constants for name in names):
        return []
    inputs = [constants[name] for name in names]
    if not _is_worth_storing([shapes.get(name) for name in node.output], inputs):
        return []
    return _computed(node, inputs, model)


def _known_size(node: NodeProto, shape: Shape | None) -> NDArray[np.int64] | None:
    if shape is None:
        return None
    span = {each.name: each.i for each in node.attribute}
    part = shape[span.get("start", 0) : span.get("end")]
    return None if any(isinstance(size, str) for size in part) else np.array(part, np.int64)


def _is_worth_storing(shapes: Sequence[Shape | None], inputs: Sequence[TensorProto]) -> bool:
    total = 0
    for shape in shapes:
        if shape is None or any(isinstance(size, str) for size in shape):
            return False
        total += prod(int(size) for size in shape)
    largest: int = max(prod(tensor.dims) for tensor in inputs)
    return total <= max(_GROWTH * largest, _SMALL)


def _computed(
    node: NodeProto, inputs: Sequence[TensorProto], model: ModelProto
) -> list[TensorProto]:
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    single = helper.make_graph([node], "single", [], outputs, inputs)
    imports = model.opset_import
    evaluator = ReferenceEvaluator(
        helper.make_model(single, opset_imports=imports, ir_version=model.ir_version)
    )
    results = evaluator.run(None, {})
    return [
        numpy_helper.from_array(np.asarray(result), name)
        for result, name in zip(results, node.output, strict=True)
    ]
