"""Golden vectors: inputs that are nobody's, and the outputs that the model gave for them.

Owns how ``golden.safetensors`` is made; what is in it, and how it is compared, is
``pfm_edge_runtime.golden``'s, for a device does that::

    data = make_golden(torch_reference(source), source)    # at export
    check_golden(Path("model")).worst                       # anywhere, later

Images are standard normal noise, or random pixels where the graph takes those, and the classes are
imaginary, all seeded from the model's id.
"""

import numpy as np

from pfm_edge_exporters._noise import imaginary_classes, noise_images, normalised, seeded
from pfm_edge_exporters._parity import Reference
from pfm_edge_exporters._source import FloatArray, TorchSource
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.bundle import write_tensors
from pfm_edge_runtime.golden import GOLDEN_CLASSES, GOLDEN_FORMAT, GOLDEN_IMAGES

__all__ = ["make_golden"]


def make_golden(reference: Reference, source: TorchSource) -> bytes:
    """Record what the model gives for noise; equal models on one machine give equal bytes.

    Args:
        reference: The model.
        source: Names the inputs and draws the imaginary classes.

    Returns:
        The contents of ``golden.safetensors``.

    Raises:
        ExportError: The model fails on the noise, or gives values that are not finite.
    """
    images = noise_images(source.image, GOLDEN_IMAGES, seeded(source.model_id, "golden images"))
    tensors: dict[str, FloatArray] = {"image": images.astype(np.float32)}
    floats = normalised(images, source.preprocessing)
    for count in GOLDEN_CLASSES:
        draw = seeded(source.model_id, f"golden classes {count}")
        inputs = imaginary_classes(source, count, draw)
        outputs = reference(floats, inputs)
        for name, array in inputs.items():
            tensors[f"c{count}.input.{name}"] = array
        tensors[f"c{count}.output.logits"] = outputs.logits
        tensors[f"c{count}.output.embedding"] = outputs.embedding
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ExportError(f"the model gives values that are not finite for noise ({name})")
    return write_tensors(tensors, {"model_id": source.model_id, "pfm_golden": GOLDEN_FORMAT})
