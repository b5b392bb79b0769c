"""A model package, from a torch module: exported, compared, recorded, written whole or not at all.

Owns the order of the work and the files it leaves::

    options = ExportOptions(max_classes=10, precisions=("fp16",))
    report = export_package(source, Path("model"), options, bundle=make_bundle)
    report.summary()

The package grows in a directory beside its target, is opened there as a device would open it, and
takes the target's place at the very end: whatever fails, the old package stays as it was.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from pfm_edge_exporters._graphs import Graphs, named, require_machine, write_file
from pfm_edge_exporters._parity import require_agreement
from pfm_edge_exporters._places import staged_package
from pfm_edge_exporters._report import ExportReport, Progress, Stages
from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters.errors import ExportError, ParityError
from pfm_edge_exporters.golden import make_golden
from pfm_edge_exporters.options import ExportOptions
from pfm_edge_runtime.agreement import TOLERANCES
from pfm_edge_runtime.golden import read_golden, run_golden
from pfm_edge_runtime.manifest import (
    BUNDLE_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    Manifest,
    Variant,
)
from pfm_edge_runtime.package import ModelPackage

__all__ = [
    "ExportReport",
    "MakeBundle",
    "Progress",
    "export_package",
]

MakeBundle = Callable[[bytes], bytes]
"""From the bytes of ``manifest.json`` to those of the bundle that it may be used with."""

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


def export_package(
    source: TorchSource,
    out: Path,
    options: ExportOptions,
    *,
    bundle: MakeBundle,
    progress: Progress = lambda _: None,
) -> ExportReport:
    """Export a model as a package, whole or not at all.

    Args:
        source: The model.
        out: The directory to write.
        options: Which graphs, and what they must show.
        bundle: Makes the bundle.
        progress: Told the name of each stage as it begins.

    Raises:
        ExportError: A graph cannot be made here, or loses more accuracy than it may.
        ParityError: A graph does not compute what the model does.
        ManifestError: The source describes no package, as one without class inputs.
        PackageError: The finished package cannot be opened.
        BundleError: Its bundle is not for this model, or breaks the format.
        ConfigError: ``out`` is in another package.
        StorageError: ``out`` may not be replaced, or the disk refused.
    """
    first = options.variants()[:1]
    known = dict.fromkeys([first[0].file, GOLDEN_FILE], _NO_DIGEST)
    manifest = _manifest(source, first, known, options)  # fail now, not in minutes
    require_machine(options)
    stages = Stages(progress)
    with ExitStack() as publishing:
        staging = publishing.enter_context(staged_package(out, overwrite=options.overwrite))
        graphs = Graphs(staging, source, manifest, options, stages)
        reports = graphs.make()
        _complete(staging, graphs, [each.variant for each in reports], bundle)
        sizes = {path.name: path.stat().st_size for path in sorted(staging.iterdir())}
        with stages("publishing"):
            publishing.close()
    return ExportReport(
        path=out,
        model_id=source.model_id,
        graphs=reports,
        sizes=MappingProxyType(sizes),
        seconds=MappingProxyType(stages.seconds),
        left_out=tuple(graphs.left_out.values()),
    )


def _complete(
    staging: Path, graphs: Graphs, variants: Sequence[Variant], make_bundle: MakeBundle
) -> None:
    """Add the other files of the package to its graphs, each checked against the ones before."""
    source, stages = graphs.source, graphs.stages
    files = graphs.files
    with stages("recording golden vectors"):
        golden = make_golden(graphs.reference, source)
        files[GOLDEN_FILE] = write_file(staging / GOLDEN_FILE, golden)
    with stages("building the bundle"):
        manifest = _manifest(source, variants, files, graphs.options, graphs.left_out).to_bytes()
        write_file(staging / MANIFEST_FILE, manifest)
        write_file(staging / BUNDLE_FILE, _made(make_bundle, manifest))
    with stages("opening the package"):
        _open_as_a_device(staging, graphs)


def _open_as_a_device(staging: Path, graphs: Graphs) -> None:
    """Open the package, all digests included, and run every graph on a golden vector.

    Raises:
        PackageError: The package is damaged, or does not fit together.
        ParityError: A graph gives other outputs than were recorded.
    """
    files = ModelPackage.open(staging).files
    golden = read_golden(files)
    for variant in files.manifest.variants:
        rows = run_golden(golden, graphs.load(variant), batches=(1,))
        try:
            require_agreement(rows, TOLERANCES[variant.precision], against="its golden vectors")
        except ParityError as error:
            raise named(error, variant, graphs.options) from error


def _made(make_bundle: MakeBundle, manifest: bytes) -> bytes:
    try:
        return make_bundle(manifest)
    except OSError as error:  # or it would be taken for a failure to write the package
        raise ExportError(f"the bundle cannot be made: {error}") from error


def _manifest(
    source: TorchSource,
    variants: Sequence[Variant],
    files: Mapping[str, str],
    options: ExportOptions,
    left_out: Collection[str] = (),
) -> Manifest:
    return Manifest(
        model_id=source.model_id,
        attention=source.attention,
        image=source.image,
        class_inputs=source.class_inputs,
        preprocessing=source.preprocessing,
        variants=tuple(variants),
        files=files,
        created_with=_ingredients() | _quantisation(variants, options) | _verdict(left_out),
    )


def _quantisation(variants: Sequence[Variant], options: ExportOptions) -> dict[str, str]:
    """Say how the eight-bit graphs of a package got their ranges; nothing else tells."""
    if all(each.precision != "int8" for each in variants):
        return {}
    calibration = options.calibration
    return {"int8": "dynamic" if calibration is None else f"static, {calibration.description}"}


def _verdict(left_out: Collection[str]) -> dict[str, str]:
    """Say which graphs were made and dropped, without figures: those differ from run to run."""
    if not left_out:
        return {}
    return {"left_out": f"{', '.join(sorted(left_out))}: slower than float32 where it was made"}


def _ingredients() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _INGREDIENTS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
