"""What an exporter is given: a torch module, and the words a model package needs about it.

Owns the description alone: no tracing, no torch at run time. Whoever knows a model family builds
one, and every exporter takes it::

    source = TorchSource(
        module=module,                       # forward(image, *class tensors) -> logits, embedding
        model_id=compute_model_id(weights, configuration),
        attention="prefix",
        image=ImageInput("image", (3, 224, 224)),
        class_inputs=(ClassInput("prompt_keys", (12, 6, 64), class_axis=2), ...),
        preprocessing=preprocessing,
        synthesize=lambda count, draw: {"prompt_keys": draw.standard_normal(...), ...},
    )
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pfm_edge_runtime.manifest import ClassInput, ImageInput, ModelId, Preprocessing

if TYPE_CHECKING:
    import torch

__all__ = ["FloatArray", "Synthesize", "TorchSource"]

FloatArray: TypeAlias = NDArray[np.float32]

Synthesize: TypeAlias = Callable[[int, np.random.Generator], dict[str, FloatArray]]
"""Draws the class tensors of a number of imaginary classes, in the graph's shapes."""


@dataclass(frozen=True, slots=True)
class TorchSource:
    """A trained backbone as torch has it, ready to be exported.

    Attributes:
        module: ``forward(image, *class_inputs)`` with the class inputs in their declared order
            gives ``(logits, embedding)``: float32 ``[batch, classes]`` and ``[batch, width]``. In
            evaluation mode, float32, on the CPU.
        model_id: The trained model (:func:`pfm_edge_exporters.identity.compute_model_id`).
        attention: How prompts and image meet, as ``"prefix"``.
        image: The image input of the graph. With dtype uint8 the graph takes pixels; the module
            takes them normalised by ``preprocessing``, as float32, either way.
        class_inputs: The class inputs. Empty for a bare backbone, which has no class axis and can
            be exported as a graph, but not as a model package.
        preprocessing: How an image file becomes the image input.
        synthesize: Draws the class tensors of imaginary classes, from the generator alone: equal
            seeds must give equal tensors. Never anybody's class.
    """

    module: "torch.nn.Module"
    model_id: ModelId
    attention: str
    image: ImageInput
    class_inputs: tuple[ClassInput, ...]
    preprocessing: Preprocessing
    synthesize: Synthesize
