"""From the float32 graph of a package to each of its other graphs.

Owns the order of the passes, and that every result is checked as the first graph was::

    data = derive(Path("backbone.onnx"), Variant("backbone.fp16.onnx", "fp16"), source)
"""

from pathlib import Path

import onnx
from onnx import ModelProto

from pfm_edge_exporters._canonical import tidy, to_bytes
from pfm_edge_exporters._graph_rules import require_rules, require_valid
from pfm_edge_exporters._half import require_half_rules, to_half
from pfm_edge_exporters._int8 import Ranges, require_int8_rules, to_int8
from pfm_edge_exporters._opset23 import OPSET_23, to_opset23
from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters._static import to_static
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.manifest import Variant

__all__ = ["derive", "read_graph"]


def derive(
    first: Path, variant: Variant, source: TorchSource, *, ranges: Ranges | None = None
) -> bytes:
    """Make one graph from another; equal graphs give equal bytes.

    Args:
        first: The package's float32 graph: dynamic, opset 18.
        variant: What to make.
        source: What the first graph was made from.
        ranges: For a statically quantised graph, what calibration measured.

    Returns:
        The contents of an ``.onnx`` file.

    Raises:
        ExportError: This model has no such graph.
    """
    model = read_graph(first)
    layer_norms = sum(node.op_type == "LayerNormalization" for node in model.graph.node)
    if variant.capacity is not None:
        to_static(model, variant, source)
    if variant.opset == OPSET_23:
        to_opset23(model)
    if variant.precision == "fp16":
        to_half(model)
        require_half_rules(model)
    elif variant.precision == "int8":
        to_int8(model, ranges)
        require_int8_rules(model)
    tidy(model)
    require_rules(model, source, variant, layer_norms=layer_norms)
    require_valid(model)
    return to_bytes(model)


def read_graph(path: Path) -> ModelProto:
    """Read a graph that this export wrote.

    Raises:
        ExportError: The disk refuses.
    """
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
