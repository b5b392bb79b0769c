"""From a graph that takes normalised floats to one that takes the pixels themselves.

Owns the folding of the normalisation into the patch embedding, the one convolution that sees the
image::

    take_pixels(model, source)      # in place; the image input is uint8 from now on

``conv(w, (x / 255 - mean) / std) + b`` is ``conv(w / (255 std), x) + b - conv(w, mean / std)``, as
long as nothing is padded, for a padded zero is not normalised. Four times fewer bytes are copied to
the graph, and nobody computes what it can.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters._wiring import Wiring
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.manifest import Preprocessing

__all__ = ["take_pixels"]

_WHITE = 255.0
_FLOAT = TensorProto.FLOAT


def take_pixels(model: ModelProto, source: TorchSource) -> None:
    """Fold the normalisation into the patch embedding, in place.

    Args:
        model: Its image input is float32.
        source: Names the image input, and says how it is normalised.

    Raises:
        ExportError: The image meets something else than one unpadded convolution.
    """
    graph, name = model.graph, source.image.name
    convolution = _only_reader(model, name)
    weight, bias = _folded(graph, convolution, source.preprocessing)
    for tensor in (weight, bias):
        graph.initializer.append(tensor)
    cast = helper.make_node("Cast", [name], [f"{name}/float32"], f"{name}/Cast", to=_FLOAT)
    convolution.input[:] = [cast.output[0], weight.name, bias.name]
    graph.node.insert(0, cast)
    for value in graph.input:
        if value.name == name:
            value.type.tensor_type.elem_type = TensorProto.UINT8


def _only_reader(model: ModelProto, image: str) -> NodeProto:
    readers = [each for each in Wiring.of(model).readers[image] if each.op_type != "Shape"]
    convolution = readers[0]
    fixed = {tensor.name for tensor in model.graph.initializer}
    if len(readers) > 1 or convolution.op_type != "Conv":
        raise _impossible(f"the image is read by {', '.join(each.name for each in readers)}")
    if not fixed.issuperset(convolution.input[1:]):
        raise _impossible(f"the weights of {convolution.name} are computed")
    for attribute in convolution.attribute:
        padded = attribute.name == "pads" and any(attribute.ints)
        padded |= attribute.name == "auto_pad" and attribute.s not in {b"NOTSET", b"VALID"}
        if padded or (attribute.name == "group" and attribute.i != 1):
            raise _impossible(f"{convolution.name} pads its input or takes it in groups")
    return convolution


def _folded(
    graph: GraphProto, convolution: NodeProto, spec: Preprocessing
) -> tuple[TensorProto, TensorProto]:
    """Return new weights and biases; in float64 until the end, so that they round once."""
    weight = _array(graph, convolution.input[1])
    outputs, channels = weight.shape[:2]
    if channels != len(spec.mean):
        raise _impossible(f"{convolution.name} takes {channels} channels, not {len(spec.mean)}")
    bias = (
        _array(graph, convolution.input[2])
        if len(convolution.input) > 2  # noqa: PLR2004 (image, weight, bias)
        else np.zeros(outputs)
    )
    mean, std = np.asarray(spec.mean, np.float64), np.asarray(spec.std, np.float64)
    sums = weight.reshape(outputs, channels, prod(weight.shape[2:])).sum(axis=2)
    scale = (1 / (_WHITE * std)).reshape(1, channels, *[1] * (weight.ndim - 2))
    folded = {
        f"{convolution.input[1]}/pixels": weight * scale,
        f"{convolution.name}/bias/pixels": bias - sums @ (mean / std),
    }
    weight_made, bias_made = (
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in folded.items()
    )
    return weight_made, bias_made


def _array(graph: GraphProto, name: str) -> NDArray[np.float64]:
    tensor = next(each for each in graph.initializer if each.name == name)
    return numpy_helper.to_array(tensor).astype(np.float64)


def _impossible(finding: str) -> ExportError:
    return ExportError(
        f"the normalisation cannot be folded: {finding}; export without --fold-normalization"
    )
