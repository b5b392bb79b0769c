"""Golden vectors: does a graph compute here what the model computed when it was exported?

Owns the form of ``golden.safetensors`` and the check, which needs neither torch nor a class of the
bundle: the images are noise and the classes imaginary::

    golden = read_golden(files)
    rows = run_golden(golden, load_variant(files, variant, load_backend("onnxruntime")))
    max(row.worst for row in rows)

The file is in the bundle's container format. ``image`` is float32 ``[5, channels, height,
width]``, whole numbers from 0 to 255 where the graph's input is uint8; for C = 1, 2 and 7 classes
there are ``c<C>.input.<class input>``, in the shapes of a dynamic graph, and ``c<C>.output.logits``
and ``c<C>.output.embedding``. One file serves every graph of a package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import numpy as np

from pfm_edge_runtime.agreement import Comparison, difference, point_in_words
from pfm_edge_runtime.backends import FloatArray, ImageArray, Outputs
from pfm_edge_runtime.bundle import BundleLimits, read_tensors
from pfm_edge_runtime.errors import BackendError, BundleFormatError, PackageError
from pfm_edge_runtime.manifest import GOLDEN_FILE, Manifest
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.variants import VariantGraph

__all__ = [
    "GOLDEN_BATCHES",
    "GOLDEN_CLASSES",
    "GOLDEN_FORMAT",
    "GOLDEN_IMAGES",
    "GoldenPoint",
    "GoldenVectors",
    "read_golden",
    "run_golden",
]

GOLDEN_CLASSES = (1, 2, 7)
GOLDEN_BATCHES = (1, 2, 5)
GOLDEN_IMAGES = 5
GOLDEN_FORMAT = "1"
_LIMITS = BundleLimits(max_tensors=256)  # 64 class inputs and two outputs, three times
_EXPORT_AGAIN = "export the package again"


@dataclass(frozen=True, slots=True)
class GoldenPoint:
    """What was recorded for one number of classes.

    Attributes:
        class_tensors: float32 by name, in the shapes of a dynamic graph.
        outputs: What the model gave for all the images.
    """

    class_tensors: Mapping[str, FloatArray]
    outputs: Outputs


@dataclass(frozen=True, slots=True)
class GoldenVectors:
    """Everything in the file, in the shapes that the manifest promises.

    Attributes:
        images: ``[5, channels, height, width]``, of the type of the graph's input.
        points: What was recorded, by the number of classes.
    """

    images: ImageArray
    points: Mapping[int, GoldenPoint]


def read_golden(files: PackageFiles) -> GoldenVectors:
    """Read the golden vectors of a package; these very bytes are verified.

    Raises:
        PackageError: There are none, or they are altered, or not what the manifest asks for.
    """
    path = files.directory / GOLDEN_FILE
    try:
        tensors, metadata = read_tensors(files.read_file(GOLDEN_FILE), limits=_LIMITS)
    except BundleFormatError as error:
        raise PackageError(f"{path}: {error}; {_EXPORT_AGAIN}") from error
    if metadata != {"model_id": files.manifest.model_id, "pfm_golden": GOLDEN_FORMAT}:
        raise PackageError(f"{path} is of another model or format: {_EXPORT_AGAIN}")
    _require_shapes(tensors, files.manifest, str(path))
    images = tensors["image"]
    if files.manifest.image.dtype == "uint8" and not _are_pixels(images):
        raise PackageError(f"{path} holds images that are no pixels: {_EXPORT_AGAIN}")
    return GoldenVectors(
        images.astype(files.manifest.image.dtype),
        MappingProxyType(
            {count: _point(tensors, files.manifest, count) for count in GOLDEN_CLASSES}
        ),
    )


def run_golden(
    golden: GoldenVectors, graph: VariantGraph, batches: Sequence[int] = GOLDEN_BATCHES
) -> list[Comparison]:
    """Run a graph on the golden vectors, at every number of classes that it has room for.

    Args:
        golden: The vectors.
        graph: The graph, static or dynamic.
        batches: Numbers of images, up to 5: the first ones of the five recorded.

    Raises:
        BackendError: The graph fails, or gives outputs of other shapes.
    """
    rows = []
    fitting = [count for count in golden.points if graph.layout.holds(count)]
    for count, batch in product(fitting, sorted(set(batches))):
        point = golden.points[count]
        expected = Outputs(point.outputs.logits[:batch], point.outputs.embedding[:batch])
        try:
            found = difference(expected, graph.run(golden.images[:batch], point.class_tensors))
        except BackendError as error:
            raise BackendError(f"for {point_in_words(batch, count)}: {error}") from error
        rows.append(Comparison(batch, count, found))
    return rows


def _point(tensors: Mapping[str, FloatArray], manifest: Manifest, count: int) -> GoldenPoint:
    inputs = {each.name: tensors[f"c{count}.input.{each.name}"] for each in manifest.class_inputs}
    logits, embedding = (tensors[f"c{count}.output.{name}"] for name in manifest.outputs)
    return GoldenPoint(MappingProxyType(inputs), Outputs(logits, embedding))


def _require_shapes(tensors: Mapping[str, FloatArray], manifest: Manifest, path: str) -> None:
    expected: dict[str, tuple[int, ...]] = {"image": (GOLDEN_IMAGES, *manifest.image.shape)}
    for count in GOLDEN_CLASSES:
        for each in manifest.class_inputs:
            expected[f"c{count}.input.{each.name}"] = each.graph_shape(count)
        expected[f"c{count}.output.logits"] = (GOLDEN_IMAGES, count)
    found = {name: array.shape for name, array in tensors.items()}
    for count in GOLDEN_CLASSES:
        shape = found.pop(f"c{count}.output.embedding", ())
        if shape[:1] != (GOLDEN_IMAGES,) or len(shape) != 2:  # noqa: PLR2004 (images by width)
            raise PackageError(f"{path} lacks the embedding for {count} classes: {_EXPORT_AGAIN}")
    if found != expected:
        raise PackageError(f"{path} does not hold what the manifest asks for: {_EXPORT_AGAIN}")


def _are_pixels(images: FloatArray) -> bool:
    return bool(((images >= 0) & (images <= 255) & (images == np.floor(images))).all())  # noqa: PLR2004 (uint8)
