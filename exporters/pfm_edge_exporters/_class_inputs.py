"""What an exporter does to the class inputs of a finished graph: filled, changed, or made optional.

Owns these three edits; the nodes and the weights of the backbone stay as they are::

    model = bake_classes(graph, {"class_weight": weight, "class_bias": bias})
    fewer = rewrite_classes(model, {"class_bias": lambda bias: bias[1:], ...})
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # (it ships no types)
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.manifest import ClassInput

__all__ = ["bake_classes", "embedding_width", "optional_classes", "rewrite_classes"]

_MAX_BYTES = 2**31 - 1  # of one protobuf message


def bake_classes(graph: bytes, tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Turn the class inputs of a graph into initialisers of the same names.

    The outputs keep their symbolic axes: the number of classes is a matter of the initialisers
    alone, so that a class can go without anything else being changed.

    Args:
        graph: The contents of a dynamic backbone.
        tensors: Every class input, in the graph's shape.

    Raises:
        ExportError: The graph has other inputs, or the result is too large for one file.
    """
    model = _parse(graph)
    kept = [each for each in model.graph.input if each.name not in tensors]
    if len(model.graph.input) != len(tensors) + 1 or len(kept) != 1:
        names = [each.name for each in model.graph.input]
        raise ExportError(f"the graph takes {names}, not an image and {list(tensors)}")
    del model.graph.input[:]
    model.graph.input.extend(kept)
    del model.graph.value_info[:]  # it would repeat shapes that are known only now
    for name, tensor in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(tensor, name))
    return _serialised(model)


def optional_classes(graph: bytes, inputs: Sequence[ClassInput]) -> bytes:
    """Give the class inputs of a graph a default: no class at all.

    An input that has a default may be left out of a call, which is what ONNX Runtime's Python asks
    for before it looks at adapters.

    Args:
        graph: The contents of a dynamic backbone.
        inputs: Its class inputs.

    Raises:
        ExportError: The graph has other inputs.
    """
    model = _parse(graph)
    found = {each.name for each in model.graph.input}
    if len(found) != len(inputs) + 1 or not {each.name for each in inputs} <= found:
        raise ExportError(f"the graph takes {sorted(found)}, not an image and class inputs")
    for each in inputs:
        none = np.zeros(each.graph_shape(0), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(none, each.name))
    return _serialised(model)


def rewrite_classes(
    graph: bytes, change: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]]
) -> bytes:
    """Change initialisers of a graph, by name.

    Raises:
        ExportError: The graph is none, or has no initialiser of such a name.
    """
    model = _parse(graph)
    found = {each.name: each for each in model.graph.initializer if each.name in change}
    if found.keys() != change.keys():
        raise ExportError(f"the graph holds no {', '.join(sorted(change.keys() - found.keys()))}")
    for name, each in found.items():
        each.CopyFrom(numpy_helper.from_array(change[name](numpy_helper.to_array(each)), name))
    return _serialised(model)


def embedding_width(graph: bytes) -> int:
    """Return the width of a graph's embedding.

    Raises:
        ExportError: The graph is none, or says no width.
    """
    for output in _parse(graph).graph.output:
        if output.name == "embedding":
            return int(output.type.tensor_type.shape.dim[-1].dim_value)
    raise ExportError("the graph has no output embedding")


def _parse(graph: bytes) -> ModelProto:
    try:
        return onnx.load_from_string(graph)
    except DecodeError as error:
        raise ExportError("the graph is no ONNX file") from error


def _serialised(model: ModelProto) -> bytes:
    if model.ByteSize() > _MAX_BYTES:
        raise ExportError("the graph and its classes are larger than one ONNX file may be, 2 GiB")
    data: bytes = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"the graph cannot hold these classes: {reason}") from error
    return data
