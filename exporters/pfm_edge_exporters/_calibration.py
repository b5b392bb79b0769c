"""Which activations a model really has: the ranges that static quantisation needs.

Owns the graph that measures them, an ordinary one whose embedding is replaced by the smallest and
the largest value that each product of weights reads, for each image::

    ranges = calibrate(model, [(images, class_tensors)], load_backend("onnxruntime"))
    ranges["blocks.0.qkv/MatMul_output_0"]      # (-3.1, 4.2)
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
from onnx import ModelProto, TensorProto, helper

from pfm_edge_exporters._int8 import Ranges, quantised_products
from pfm_edge_exporters._source import FloatArray
from pfm_edge_exporters._wiring import Wiring
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.backends import BackendFactory, ImageArray

__all__ = ["Batch", "calibrate"]

Batch: TypeAlias = tuple[ImageArray, Mapping[str, FloatArray]]
"""An image batch as the graph takes it, and class tensors in the graph's shapes."""

_MEASURED = "embedding"  # the output that gives way: every backend knows it, and its shape


def calibrate(model: ModelProto, batches: Iterable[Batch], load: BackendFactory) -> Ranges:
    """Measure the range of what each product of weights reads.

    Args:
        model: float32 and dynamic; used up.
        batches: What to run; at least one.
        load: Loads the measuring graph.

    Raises:
        ExportError: There are no images.
        BackendError: The graph does not run.
    """
    names = _measure_ranges(model)
    backend = load(model.SerializeToString())
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for images, class_tensors in batches:
        found = backend.run(images, class_tensors).embedding
        low = np.minimum(low, found[:, 0::2].min(axis=0))
        high = np.maximum(high, found[:, 1::2].max(axis=0))
    if not np.isfinite([low, high]).all():
        raise ExportError("there is no image to calibrate with, or the model gives no numbers")
    spans = zip(low.tolist(), high.tolist(), strict=True)
    return dict(zip(names, spans, strict=True))


def _measure_ranges(model: ModelProto) -> list[str]:
    """Let the embedding be the ranges instead: columns in pairs, one pair for each name."""
    wiring = Wiring.of(model)
    products = list(quantised_products(wiring))
    graph = model.graph
    kept = f"{_MEASURED}/kept"
    for node in graph.node:
        node.output[:] = [kept if name == _MEASURED else name for name in node.output]
        node.input[:] = [kept if name == _MEASURED else name for name in node.input]
    columns: list[str] = []
    for number, node in enumerate(products):
        rows = f"ranges/{number}"
        graph.node.append(helper.make_node("Flatten", [node.input[0]], [rows], axis=1))
        for word in ("Min", "Max"):
            columns.append(f"{rows}/{word}")
            graph.node.append(
                helper.make_node(f"Reduce{word}", [rows, "ranges/axis"], [columns[-1]], keepdims=1)
            )
    graph.initializer.append(helper.make_tensor("ranges/axis", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("Concat", columns, [_MEASURED], axis=1))
    for value in graph.output:
        if value.name == _MEASURED:
            value.type.tensor_type.shape.dim[1].dim_value = len(columns)
    return [node.output[0] for node in products]
