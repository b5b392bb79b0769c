"""From dynamic axes to fixed ones, for whatever replays one fixed program: CUDA graphs, compilers.

Owns the mask and where it acts. A static graph has room for a number of classes and one more input,
``class_mask``, bool [capacity], true where there is a class::

    to_static(model, Variant("backbone.static-16.onnx", "fp32", capacity=16), source)

Rows without a class hold zeros. No image token attends to them, and their logits are the smallest
float32 there is, so that whoever takes the largest logit of a static graph never gets a class that
is not there. What the others give is what the dynamic graph gives.
"""

from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pfm_edge_exporters._fold import fold
from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters._wiring import Attention, Wiring, skeleton
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.manifest import MASK_INPUT, Variant

__all__ = ["to_static"]

_NOWHERE = -1e30  # added to a score: its softmax is exactly 0, and nothing overflows
_ABSENT = float(
    np.finfo(np.float32).min
)  # the logit of a class that is not there; finite, as all outputs
_TRIED_BATCH = 2


def to_static(model: ModelProto, variant: Variant, source: TorchSource) -> None:
    """Fix the class axis of a graph, and the batch axis where the variant says so, in place.

    Args:
        model: Dynamic, with classes before image tokens wherever they share an axis.
        variant: Its capacity and batch.
        source: Names the inputs.

    Raises:
        ExportError: It is not clear where attention meets the classes.
    """
    if variant.capacity is None:
        raise ExportError(f"{variant.file} has no capacity, so it is not static")
    met = list(_attentions_with_classes(model, variant.capacity, source))
    _fix_inputs(model.graph, source, variant.capacity, variant.batch)
    _fix_outputs(model.graph, variant.capacity, variant.batch)
    mask = helper.make_tensor_value_info(MASK_INPUT, TensorProto.BOOL, [variant.capacity])
    model.graph.input.append(mask)
    _mask_scores(model.graph, met)
    _mask_logits(model.graph)
    fold(model)


def _attentions_with_classes(
    model: ModelProto, capacity: int, source: TorchSource
) -> Iterator[tuple[str, int]]:
    """Find each softmax over classes: the name of its output, and how many other keys it has.

    An axis counts classes if it grows by one when they do.
    """
    fewer, more = (_at(model, count, source) for count in (capacity, capacity + 1))
    for attention in fewer.attentions():
        softmax = attention.softmax
        low, high = (w.shapes.get(softmax.input[0], ("?",))[-1] for w in (fewer, more))
        if not (isinstance(low, int) and isinstance(high, int)) or high - low not in {0, 1}:
            raise ExportError(
                f"{softmax.name} attends to an unknown number of tokens ({low}): this model has "
                "no static graph; export it without --static"
            )
        _require_last_axis(attention)
        if high > low:
            yield softmax.output[0], low - capacity


def _at(model: ModelProto, classes: int, source: TorchSource) -> Wiring:
    """Look at a graph as it is for a number of classes; its weights are not copied."""
    bare = skeleton(model, outputs=False)
    _fix_inputs(bare.graph, source, classes, _TRIED_BATCH)
    fold(bare)
    return Wiring.of(bare)


def _require_last_axis(attention: Attention) -> None:
    axes = [each.i for each in attention.softmax.attribute if each.name == "axis"]
    if axes not in ([], [-1]):
        raise ExportError(f"{attention.softmax.name} does not normalise its last axis")


def _fix_inputs(graph: GraphProto, source: TorchSource, classes: int, batch: int | None) -> None:
    """Declare fixed sizes for the class axes, and for the batch axis where there is one."""
    axes = {each.name: each.class_axis for each in source.class_inputs}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in axes:
            dims[axes[value.name]].dim_value = classes
        elif value.name == source.image.name and batch is not None:
            dims[0].dim_value = batch


def _fix_outputs(graph: GraphProto, classes: int, batch: int | None) -> None:
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        if batch is not None:
            dims[0].dim_value = batch
        if value.name == "logits":
            dims[1].dim_value = classes


def _mask_scores(graph: GraphProto, met: list[tuple[str, int]]) -> None:
    """Keep every image token from attending to a row that holds no class."""
    rows = _Rows()
    nodes: list[NodeProto] = []
    others = dict(met)
    for node in graph.node:
        if node.op_type == "Softmax" and node.output[0] in others:
            name = node.input[0]
            row = rows.for_others(others[node.output[0]])
            masked = f"{name}/masked"
            nodes.append(helper.make_node("Add", [name, row], [masked], f"{masked}/Add"))
            node.input[0] = masked
        nodes.append(node)
    del graph.node[:]
    graph.node.extend([*rows.nodes, *nodes])
    graph.initializer.extend(rows.constants)


class _Rows:
    """Makes what is added to a row of scores: one for each number of other keys."""

    def __init__(self) -> None:
        self.nodes = [
            helper.make_node(
                "Where",
                [MASK_INPUT, f"{MASK_INPUT}/present", f"{MASK_INPUT}/absent"],
                [f"{MASK_INPUT}/scores"],
                f"{MASK_INPUT}/Where",
            )
        ]
        self.constants = [
            _scalar(0.0, f"{MASK_INPUT}/present"),
            _scalar(_NOWHERE, f"{MASK_INPUT}/absent"),
        ]
        self._made: dict[int, str] = {}

    def for_others(self, count: int) -> str:
        if count not in self._made:
            made = self._made[count] = f"{MASK_INPUT}/scores_and_{count}"
            zeros = numpy_helper.from_array(np.zeros(count, np.float32), f"{MASK_INPUT}/{count}")
            self.constants.append(zeros)
            inputs = [self.nodes[0].output[0], zeros.name]
            self.nodes.append(helper.make_node("Concat", inputs, [made], f"{made}/Concat", axis=0))
        return self._made[count]


def _mask_logits(graph: GraphProto) -> None:
    """Give the rows that hold no class the smallest logit."""
    everything = "logits/every_row"
    for node in graph.node:
        node.output[:] = [everything if name == "logits" else name for name in node.output]
        node.input[:] = [everything if name == "logits" else name for name in node.input]
    graph.initializer.append(_scalar(_ABSENT, "logits/absent"))
    inputs = [MASK_INPUT, everything, "logits/absent"]
    graph.node.append(helper.make_node("Where", inputs, ["logits"], "logits/Where"))


def _scalar(value: float, name: str) -> TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32), name)
