"""Inputs that are nobody's: noise images and the tensors of imaginary classes, by seed.

Owns what the parity check and the golden vectors run on. The seed is the model's id and a word
for the purpose, so two exports of one model draw the same::

    draw = seeded(source.model_id, "golden")
    images = noise_images(source.image, 5, draw)           # as the graph takes them
    tensors = imaginary_classes(source, 7, draw)
"""

import hashlib

import numpy as np

from pfm_edge_exporters._source import FloatArray, TorchSource
from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.backends import ImageArray
from pfm_edge_runtime.manifest import ImageInput, Preprocessing

__all__ = ["imaginary_classes", "noise_images", "normalised", "seeded"]

_PIXELS = 256  # values that one has


def seeded(model_id: str, purpose: str) -> np.random.Generator:
    """Return a generator that depends on the model and the purpose, and on nothing else."""
    digest = hashlib.sha256(f"{model_id} {purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def noise_images(image: ImageInput, count: int, draw: np.random.Generator) -> ImageArray:
    """Draw standard normal images, which is what normalised photographs are on average, or pixels.

    Returns:
        float32 or uint8 ``[count, channels, height, width]``, as the image input is.
    """
    if image.dtype == "uint8":
        return draw.integers(0, _PIXELS, (count, *image.shape), dtype=np.uint8)
    return draw.standard_normal((count, *image.shape), dtype=np.float32)


def normalised(images: ImageArray, spec: Preprocessing) -> FloatArray:
    """Return what the model takes for what the graph takes: pixels are scaled and normalised."""
    floats: FloatArray = images.astype(np.float32, copy=False)
    if images.dtype == np.uint8:
        mean, std = (np.asarray(each, np.float32)[:, None, None] for each in (spec.mean, spec.std))
        floats = (floats / np.float32(_PIXELS - 1) - mean) / std
    return floats


def imaginary_classes(
    source: TorchSource, count: int, draw: np.random.Generator
) -> dict[str, FloatArray]:
    """Draw the class tensors of ``count`` imaginary classes, and check what came.

    Returns:
        One float32 array per class input, in the declared order and in the graph's shape.

    Raises:
        ExportError: ``source.synthesize`` gives other names, types, shapes or values than the
            class inputs promise.
    """
    if not source.class_inputs:
        return {}
    tensors = source.synthesize(count, draw)
    declared = {each.name: each.graph_shape(count) for each in source.class_inputs}
    if tensors.keys() != declared.keys():
        raise ExportError(
            f"synthesize gives the class tensors {sorted(tensors)}, "
            f"but the class inputs are {sorted(declared)}"
        )
    for name, shape in declared.items():
        array = tensors[name]
        if array.dtype != np.float32 or array.shape != shape:
            raise ExportError(
                f"synthesize gives {name} as {array.dtype} {list(array.shape)}, "
                f"but {count} classes need float32 {list(shape)}"
            )
        if not np.isfinite(array).all():
            raise ExportError(f"synthesize gives {name} a value that is not finite")
    return {name: tensors[name] for name in declared}
