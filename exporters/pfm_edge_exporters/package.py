"""A model package, from a torch module: exported, compared, recorded, written whole or not at all.

Owns the order of the work and the files it leaves::

    report = export_package(source, Path("model"), bundle=make_bundle, max_classes=10)
    report.summary()

The package grows in a directory beside its target, is opened there as a device would open it, and
takes the target's place at the very end: whatever fails, the old package stays as it was.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from pfm_edge_exporters._parity import ParityReport, check_parity, parity_classes
from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters.errors import ExportError
from pfm_edge_exporters.golden import make_golden
from pfm_edge_exporters.onnx_from_torch import OnnxFromTorch, torch_reference
from pfm_edge_exporters.verification import check_golden
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.manifest import (
    BUNDLE_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    Manifest,
    ModelId,
    Variant,
)
from pfm_edge_runtime.store import staged_directory, write_atomic

__all__ = [
    "GRAPH_FILE",
    "ExportReport",
    "MakeBundle",
    "Progress",
    "export_package",
]

GRAPH_FILE = "backbone.onnx"

MakeBundle = Callable[[bytes], bytes]
"""From the bytes of ``manifest.json`` to those of the bundle that it may be used with."""

Progress = Callable[[str], None]
"""Told the name of each stage as it begins."""

# What shapes the files; recorded in the manifest where it is installed.
_INGREDIENTS = (
    "numpy",
    "onnx",
    "onnxscript",
    "pfm-edge",
    "pfm-edge-exporters",
    "pfm-edge-runtime",
    "timm",
    "torch",
)
_NO_DIGEST = "sha256:" + 64 * "0"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: The package.
        model_id: The model in it.
        parity: Model and graph, side by side.
        sizes: Bytes of each file, by name.
        seconds: Duration of each stage, in the order they ran.
    """

    path: Path
    model_id: ModelId
    parity: ParityReport
    sizes: Mapping[str, int]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "path": str(self.path),
            "model_id": self.model_id,
            "parity": self.parity.as_dict(),
            "sizes": dict(self.sizes),
            "seconds": {stage: round(spent, 3) for stage, spent in self.seconds.items()},
        }

    def summary(self) -> str:
        """Return one line for a person."""
        size = sum(self.sizes.values()) / 1e6
        return (
            f"{self.path}: {len(self.sizes)} files, {size:.1f} MB, in "
            f"{sum(self.seconds.values()):.1f} s; model and graph agree to "
            f"{self.parity.worst:.1e} at {len(self.parity.rows)} points"
        )


def export_package(
    source: TorchSource,
    out: Path,
    *,
    bundle: MakeBundle,
    overwrite: bool = False,
    max_classes: int,
    progress: Progress = lambda _: None,
) -> ExportReport:
    """Export a model as a package, whole or not at all.

    Args:
        source: The model.
        out: The directory to write.
        bundle: Makes the bundle.
        overwrite: Whether an existing package may be replaced; nothing else ever is.
        max_classes: The largest number of classes to compare model and graph at.
        progress: Told the name of each stage as it begins.

    Raises:
        ExportError: The graph cannot be made.
        ParityError: The graph does not compute what the model does.
        ManifestError: The source describes no package, as one without class inputs.
        PackageError: The finished package cannot be opened.
        BundleError: Its bundle is not for this model, or breaks the format.
        StorageError: ``out`` may not be replaced, or the disk refused.
    """
    if max_classes < 1:
        raise ExportError(f"max_classes must be 1 or more, not {max_classes}")
    _manifest(source, {GRAPH_FILE: _NO_DIGEST, GOLDEN_FILE: _NO_DIGEST})  # fail now, not in minutes
    stages = _Stages(progress)
    with ExitStack() as publishing:
        staging = publishing.enter_context(
            staged_directory(out, overwrite=overwrite, marker=MANIFEST_FILE)
        )
        parity = _fill(staging, source, bundle, max_classes=max_classes, stages=stages)
        sizes = {path.name: path.stat().st_size for path in sorted(staging.iterdir())}
        with stages("publishing"):
            publishing.close()
    seconds = MappingProxyType(stages.seconds)
    return ExportReport(out, source.model_id, parity, MappingProxyType(sizes), seconds)


@dataclass(slots=True)
class _Stages:
    """Tells of each stage, and how long it took."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.progress(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


def _fill(
    staging: Path,
    source: TorchSource,
    make_bundle: MakeBundle,
    *,
    max_classes: int,
    stages: _Stages,
) -> ParityReport:
    """Make every file of the package, each checked against the ones before."""
    files: dict[str, str] = {}
    reference = torch_reference(source)
    with stages("converting to ONNX"):
        files[GRAPH_FILE] = _write(staging / GRAPH_FILE, OnnxFromTorch().export(source))
    with stages("comparing with torch"):
        # From the file, so that no second copy of the weights is in memory.
        backend = load_backend("onnxruntime")(staging / GRAPH_FILE)
        parity = check_parity(reference, backend, source, classes=parity_classes(max_classes))
        del backend
    with stages("recording golden vectors"):
        files[GOLDEN_FILE] = _write(staging / GOLDEN_FILE, make_golden(reference, source))
    with stages("building the bundle"):
        manifest = _manifest(source, files).to_bytes()
        _write(staging / MANIFEST_FILE, manifest)
        _write(staging / BUNDLE_FILE, _made(make_bundle, manifest))
    with stages("opening the package"):
        check_golden(staging, batches=(1,))
    return parity


def _made(make_bundle: MakeBundle, manifest: bytes) -> bytes:
    try:
        return make_bundle(manifest)
    except OSError as error:  # or it would be taken for a failure to write the package
        raise ExportError(f"the bundle cannot be made: {error}") from error


def _write(path: Path, data: bytes) -> str:
    write_atomic(path, data)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _manifest(source: TorchSource, files: Mapping[str, str]) -> Manifest:
    return Manifest(
        model_id=source.model_id,
        attention=source.attention,
        image=source.image,
        class_inputs=source.class_inputs,
        preprocessing=source.preprocessing,
        variants=(Variant(GRAPH_FILE, "fp32", capacity=None),),
        files=files,
        created_with=_ingredients(),
    )


def _ingredients() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _INGREDIENTS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
