"""Every graph of a package, on every backend that is here: does it compute the model?

Owns the two comparisons of a finished package, with its golden vectors, which needs no torch, and
with the model itself, over the whole grid::

    check_golden(Path("model")).worst
    verify_package(ModelPackage.open(Path("model")), source, max_classes=10).graphs
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from pfm_edge_exporters._parity import check_parity, parity_classes, require_agreement
from pfm_edge_exporters._source import TorchSource
from pfm_edge_exporters.errors import ExportError, ParityError
from pfm_edge_exporters.onnx_from_torch import torch_reference
from pfm_edge_runtime.agreement import TOLERANCES, Comparison, Tolerance
from pfm_edge_runtime.backends import load_backend, present_backends
from pfm_edge_runtime.errors import BackendError, BackendUnavailableError
from pfm_edge_runtime.golden import GOLDEN_BATCHES, read_golden, run_golden
from pfm_edge_runtime.manifest import Variant
from pfm_edge_runtime.package import ModelPackage, PackageFiles
from pfm_edge_runtime.variants import VariantGraph, load_variant

__all__ = ["GraphReport", "VerificationReport", "check_golden", "verify_package"]

Progress: TypeAlias = Callable[[str], None]
"""Told the name of each stage as it begins."""


@dataclass(frozen=True, slots=True)
class GraphReport:
    """One graph on one backend, within tolerance at every point.

    Attributes:
        variant: The graph.
        backend: What ran it, and where.
        tolerance: What was asked for.
        rows: The points, by classes and then by batch.
        sensitivity: How far the embedding moves when a class is dropped; ``None`` where that was
            not measured.
    """

    variant: Variant
    backend: str
    tolerance: Tolerance
    rows: tuple[Comparison, ...]
    sensitivity: float | None = None

    @property
    def worst(self) -> float:
        """The largest absolute difference."""
        return max(row.worst for row in self.rows)

    @property
    def cosine(self) -> float:
        """The smallest likeness."""
        return min(row.difference.cosine for row in self.rows)

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "file": self.variant.file,
            "precision": self.variant.precision,
            "backend": self.backend,
            "tolerance": self.tolerance.as_dict(),
            "worst": self.worst,
            "cosine": self.cosine,
            "sensitivity": self.sensitivity,
            "rows": [row.as_dict() for row in self.rows],
        }

    def summary(self) -> str:
        """Return one line for a person."""
        points = f"at {len(self.rows)} points in {self.backend}"
        if self.tolerance.absolute is None:
            return f"{self.variant.file}: cosine {self.cosine:.5f} {points}"
        return f"{self.variant.file}: agrees to {self.worst:.1e} {points}"


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """Every graph of a package; each ran on one backend at least.

    Attributes:
        graphs: In the order of the manifest; a graph stands there once for each backend.
        refused: Graphs that a backend could not load though another one could, in words.
    """

    graphs: tuple[GraphReport, ...]
    refused: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        """The largest absolute difference of the float32 graphs."""
        return max(each.worst for each in self.graphs if each.variant.precision == "fp32")

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        graphs = [each.as_dict() for each in self.graphs]
        return {"worst": self.worst, "graphs": graphs, "refused": list(self.refused)}


def check_golden(
    package: Path,
    *,
    batches: Sequence[int] = GOLDEN_BATCHES,
    progress: Progress = lambda _: None,
) -> VerificationReport:
    """Open a package, all digests included, and run every graph on the golden vectors.

    Args:
        package: The model package.
        batches: Numbers of images, up to 5: the first ones of the five recorded.
        progress: Told of each graph as it begins.

    Raises:
        PackageError: The package is damaged, or its golden vectors are.
        BundleError: Its bundle is.
        BackendError: A graph cannot be loaded by any backend that is here.
        ParityError: A graph gives other outputs here.
    """
    files = ModelPackage.open(package).files
    golden = read_golden(files)

    def compare(graph: VariantGraph) -> GraphReport:
        tolerance = TOLERANCES[graph.variant.precision]
        try:
            rows = run_golden(golden, graph, batches)
        except BackendError as error:
            raise ParityError(f"the graph does not run {error}") from error
        require_agreement(rows, tolerance, against="its golden vectors")
        return _report(graph, tolerance, rows)

    return _each_graph(files, compare, progress)


def verify_package(
    opened: ModelPackage,
    source: TorchSource,
    *,
    max_classes: int,
    progress: Progress = lambda _: None,
) -> VerificationReport:
    """Compare every graph of a package with the model that it came from, over the whole grid.

    Args:
        opened: The package.
        source: The model; whether the package takes pixels is the package's own choice.
        max_classes: The largest number of classes to compare at.
        progress: Told of each graph as it begins.

    Raises:
        ExportError: The package has other inputs than the source, so it was not made from it.
        BackendError: A graph cannot be loaded by any backend that is here.
        ParityError: A graph does not compute what the model does.
    """
    manifest = opened.manifest
    source = replace(source, image=replace(source.image, dtype=manifest.image.dtype))
    if (manifest.image, manifest.class_inputs) != (source.image, source.class_inputs):
        raise ExportError(f"{opened.directory} has other inputs than the model: export it again")
    reference = torch_reference(source)

    def compare(graph: VariantGraph) -> GraphReport:
        tolerance = TOLERANCES[graph.variant.precision]
        counts = {*parity_classes(max_classes), graph.variant.capacity or max_classes}
        fitting = sorted(count for count in counts if graph.layout.holds(count))
        found = check_parity(reference, graph, source, classes=fitting, tolerance=tolerance)
        return _report(graph, tolerance, found.rows, found.sensitivity)

    return _each_graph(opened.files, compare, progress)


def _report(
    graph: VariantGraph,
    tolerance: Tolerance,
    rows: Sequence[Comparison],
    sensitivity: float | None = None,
) -> GraphReport:
    return GraphReport(graph.variant, graph.backend.describe(), tolerance, tuple(rows), sensitivity)


def _each_graph(
    files: PackageFiles, compare: Callable[[VariantGraph], GraphReport], progress: Progress
) -> VerificationReport:
    backends = present_backends()
    if not backends:
        raise BackendUnavailableError(
            "there is nothing to run a graph with: pip install 'pfm-edge-runtime[onnxruntime]'"
        )
    reports: list[GraphReport] = []
    refused: list[str] = []
    for variant in files.manifest.variants:
        progress(variant.file)
        refusals: list[BackendError] = []
        for name in backends:
            try:
                graph = load_variant(files, variant, load_backend(name))
            except BackendError as error:
                refusals.append(error)
                continue
            reports.append(_named(files, graph, compare))
        if len(refusals) == len(backends):
            raise refusals[0]
        refused += map(str, refusals)
    return VerificationReport(tuple(reports), tuple(refused))


def _named(
    files: PackageFiles, graph: VariantGraph, compare: Callable[[VariantGraph], GraphReport]
) -> GraphReport:
    try:
        return compare(graph)
    except ParityError as error:
        path = files.directory / graph.variant.file
        raise ParityError(f"{path}: {error} in {graph.backend.describe()}") from error
