"""An ONNX graph and class tensors to a model that Triton serves: class tensors as initialisers.

Owns the graph with the classes in it, and the text of ``config.pbtxt``. Triton batches requests
only where every input has the batch axis first, which a class tensor has not; so the classes of one
bundle are constants of one version of the model::

    model = bake_classes(graph, {"class_weight": weight, "class_bias": bias})
    config = triton_config(TritonModel("digits", image, embedding=384, max_batch=8))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # (it ships no types)
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.manifest import ImageInput

__all__ = ["TritonModel", "bake_classes", "embedding_width", "rewrite_classes", "triton_config"]

_MAX_BYTES = 2**31 - 1  # of one protobuf message
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True, slots=True)
class TritonModel:
    """What a server is told of a model.

    Attributes:
        name: The model's name, that of its directory.
        image: The image input.
        embedding: Width of the embedding.
        max_batch: Most images in one run.
        queue_delay_us: How long a request may wait for others, in microseconds.
        kind: Where it runs: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        instances: How many runs at once, on each device.
    """

    name: str
    image: ImageInput
    embedding: int
    max_batch: int = 8
    queue_delay_us: int = 500
    kind: str = "auto"
    instances: int = 1


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


def triton_config(model: TritonModel) -> str:
    """Return the text of ``config.pbtxt``.

    The number of classes is not in it (-1), so a forget leaves the file as it is, with whatever was
    changed in it by hand.
    """
    dims = ", ".join(map(str, model.image.shape))
    return f"""\
# Serve it under EXPLICIT control, because its one version is exchanged as a whole:
#   tritonserver --model-repository=REPOSITORY --model-control-mode=explicit \\
#       --load-model={model.name}
# After a forget or a new bundle, tell a running server; until then it keeps the old one in memory:
#   curl -X POST HOST:8000/v2/repository/models/{model.name}/load
name: "{model.name}"
backend: "onnxruntime"
max_batch_size: {model.max_batch}
input [
  {{ name: "{model.image.name}" data_type: {_TYPES[model.image.dtype]} dims: [ {dims} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ -1 ] label_filename: "labels.txt" }},
  {{ name: "embedding" data_type: TYPE_FP32 dims: [ {model.embedding} ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {model.queue_delay_us} }}
instance_group [ {{ kind: KIND_{model.kind.upper()} count: {model.instances} }} ]
version_policy {{ latest {{ num_versions: 1 }} }}
"""


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
