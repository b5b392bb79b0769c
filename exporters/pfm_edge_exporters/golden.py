"""Golden vectors: inputs that are nobody's, and the outputs that the model gave for them.

Owns ``golden.safetensors``, with which anyone who has a package alone, and no torch, can tell
whether the graph still computes the model on their machine::

    data = make_golden(torch_reference(source), source)    # at export
    report = check_golden(Path("model"))                    # anywhere, later
    report.worst

The file is in the bundle's container format. ``image`` is float32 ``[5, channels, height,
width]``; for C = 1, 2 and 7 classes there are ``c<C>.input.<class input>``, in the graph's shapes,
and ``c<C>.output.logits`` and ``c<C>.output.embedding``. Images are standard normal noise and the
classes are imaginary, all seeded from the model's id.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pfm_edge_exporters._noise import imaginary_classes, noise_images, seeded
from pfm_edge_exporters._parity import (
    ATOL,
    BATCHES,
    ParityRow,
    Reference,
    compare_outputs,
    require_agreement,
)
from pfm_edge_exporters._source import FloatArray, TorchSource
from pfm_edge_exporters.errors import ExportError, ParityError
from pfm_edge_runtime.backends import Outputs, load_backend
from pfm_edge_runtime.bundle import BundleLimits, read_tensors, write_tensors
from pfm_edge_runtime.errors import BundleFormatError, PackageError
from pfm_edge_runtime.manifest import GOLDEN_FILE, Manifest
from pfm_edge_runtime.package import ModelPackage

__all__ = ["GOLDEN_CLASSES", "GoldenReport", "check_golden", "make_golden"]

GOLDEN_CLASSES = (1, 2, 7)
_IMAGES = 5
_FORMAT = "1"
_LIMITS = BundleLimits(max_tensors=256)  # 64 class inputs and two outputs, three times


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """Every golden vector, within tolerance.

    Attributes:
        rows: Largest absolute differences, by classes and then by batch.
        atol: The absolute tolerance that all of them keep.
        backend: What ran the graph, and where.
    """

    rows: tuple[ParityRow, ...]
    atol: float
    backend: str

    @property
    def worst(self) -> float:
        """The largest absolute difference."""
        return max(row.worst for row in self.rows)

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "atol": self.atol,
            "backend": self.backend,
            "worst": self.worst,
            "rows": [row.as_dict() for row in self.rows],
        }


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
    images = noise_images(source.image, _IMAGES, seeded(source.model_id, "golden images"))
    tensors: dict[str, FloatArray] = {"image": images}
    for count in GOLDEN_CLASSES:
        draw = seeded(source.model_id, f"golden classes {count}")
        inputs = imaginary_classes(source, count, draw)
        outputs = reference(images, inputs)
        for name, array in inputs.items():
            tensors[f"c{count}.input.{name}"] = array
        tensors[f"c{count}.output.logits"] = outputs.logits
        tensors[f"c{count}.output.embedding"] = outputs.embedding
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ExportError(f"the model gives values that are not finite for noise ({name})")
    return write_tensors(tensors, {"model_id": source.model_id, "pfm_golden": _FORMAT})


def check_golden(
    package: Path,
    *,
    batches: Sequence[int] = BATCHES,
    atol: float = ATOL,
    backend: str = "onnxruntime",
) -> GoldenReport:
    """Open a package, all digests included, and run its graph on the golden vectors.

    Args:
        package: The model package.
        batches: Numbers of images, up to 5: the first ones of the five recorded.
        atol: Largest absolute difference to accept.
        backend: Name of the runtime's backend.

    Raises:
        PackageError: The package is damaged, or its golden vectors are.
        BundleError: Its bundle is.
        BackendError: The graph cannot be loaded.
        ParityError: The graph gives other outputs here.
    """
    opened = ModelPackage.open(package)
    golden = _Golden.read(package / GOLDEN_FILE, opened.manifest)
    runner = load_backend(backend)(opened.files.read_graph(opened.files.dynamic_variant()))
    rows: list[ParityRow] = []
    for count in GOLDEN_CLASSES:
        inputs, outputs = golden.point(count)
        for batch in sorted(set(batches)):
            expected = Outputs(outputs.logits[:batch], outputs.embedding[:batch])
            rows.append(compare_outputs(expected, runner, golden.images[:batch], inputs, count))
    try:
        require_agreement(rows, atol, against="its golden vectors")
    except ParityError as error:
        raise ParityError(f"{package}: {error} with {runner.describe()}") from error
    return GoldenReport(tuple(rows), atol, runner.describe())


@dataclass(frozen=True, slots=True)
class _Golden:
    """The file of one package, with every tensor that the manifest promises, in its shape."""

    tensors: Mapping[str, FloatArray]
    manifest: Manifest

    @classmethod
    def read(cls, path: Path, manifest: Manifest) -> "_Golden":
        try:
            data = path.read_bytes()
            tensors, metadata = read_tensors(data, limits=_LIMITS)
        except OSError as error:
            raise PackageError(f"{path} cannot be read: {error.strerror or error}") from error
        except BundleFormatError as error:
            raise PackageError(f"{path}: {error}; copy the package again") from error
        if manifest.files.get(path.name) != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise PackageError(f"{path} is not listed in the manifest: copy the package again")
        if metadata != {"model_id": manifest.model_id, "pfm_golden": _FORMAT}:
            raise PackageError(f"{path} is of another model or format: export the package again")
        golden = cls(tensors, manifest)
        golden._require_shapes(path)
        return golden

    @property
    def images(self) -> FloatArray:
        """The noise images: float32 ``[5, channels, height, width]``."""
        return self.tensors["image"]

    def point(self, count: int) -> tuple[dict[str, FloatArray], Outputs]:
        """Return the class tensors and the outputs for ``count`` classes."""
        names = [each.name for each in self.manifest.class_inputs]
        inputs = {name: self.tensors[f"c{count}.input.{name}"] for name in names}
        logits, embedding = (
            self.tensors[f"c{count}.output.{name}"] for name in self.manifest.outputs
        )
        return inputs, Outputs(logits, embedding)

    def _require_shapes(self, path: Path) -> None:
        expected: dict[str, tuple[int, ...]] = {"image": (_IMAGES, *self.manifest.image.shape)}
        for count in GOLDEN_CLASSES:
            for each in self.manifest.class_inputs:
                expected[f"c{count}.input.{each.name}"] = each.graph_shape(count)
            expected[f"c{count}.output.logits"] = (_IMAGES, count)
        found = {name: array.shape for name, array in self.tensors.items()}
        for count in GOLDEN_CLASSES:
            shape = found.pop(f"c{count}.output.embedding", ())
            if shape[:1] != (_IMAGES,) or len(shape) != 2:  # noqa: PLR2004 (images by width)
                raise PackageError(f"{path} lacks the embedding for {count} classes: export again")
        if found != expected:
            raise PackageError(f"{path} does not hold what the manifest asks for: export again")
