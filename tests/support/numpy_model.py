"""A model in ten lines of NumPy, for checks that compare a model with a graph without torch.

The embedding is the mean image plus the mean prompt, so it moves when a class goes::

    source = numpy_source()
    check_parity(reference, NumpyBackend(), source)
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pfm_edge_exporters import TorchSource
from pfm_edge_runtime.backends import Outputs
from pfm_edge_runtime.manifest import ClassInput, ImageInput, ModelId, Preprocessing

SIDE, WIDTH, LAYERS = 4, 4, 2
MODEL_ID = ModelId("sha256:" + "ab" * 32)
CLASS_INPUTS = (
    ClassInput("prompts", (LAYERS, WIDTH), 1),
    ClassInput("class_weight", (WIDTH,), 0),
)

Tensors = Mapping[str, NDArray[np.float32]]


def reference(image: NDArray[np.float32], class_tensors: Tensors) -> Outputs:
    """Return what the model gives; rows of the image are the embedding's features."""
    embedding = image.mean(axis=(1, 3))
    if class_tensors:
        embedding = embedding + class_tensors["prompts"].mean(axis=(0, 1))
        logits = embedding @ class_tensors["class_weight"].T
    else:
        logits = embedding[:, :1]
    return Outputs(logits, embedding)


class NumpyBackend:
    """The same model as a backend, with a fault at will.

    Args:
        fault: Gets the outputs, and may return others or raise.
    """

    def __init__(self, fault: Callable[[Outputs], Outputs] = lambda outputs: outputs) -> None:
        self._fault = fault

    def run(self, image: NDArray[np.float32], class_tensors: Tensors) -> Outputs:
        return self._fault(reference(image, class_tensors))

    def describe(self) -> str:
        return "NumPy"


def synthesize(count: int, draw: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    shapes = {each.name: each.graph_shape(count) for each in CLASS_INPUTS}
    return {name: draw.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}


def numpy_source(**changes: object) -> TorchSource:
    fields = {
        "module": None,
        "model_id": MODEL_ID,
        "attention": "joint",
        "image": ImageInput("image", (1, SIDE, SIDE)),
        "class_inputs": CLASS_INPUTS,
        "preprocessing": Preprocessing("L", SIDE, "bicubic", 1.0, "center", (0.5,), (0.5,)),
        "synthesize": synthesize,
    }
    return TorchSource(**{**fields, **changes})
