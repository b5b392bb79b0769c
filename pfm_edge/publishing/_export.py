"""`pfm-edge export` and `pfm-edge verify` without their command line."""

from collections.abc import Callable
from pathlib import Path

from pfm_edge.publishing._source import bundle_factory, deployable_source
from pfm_edge.training import Run, load_model
from pfm_edge_exporters import ExportReport, ParityReport, export_package, verify_package
from pfm_edge_runtime.errors import VerificationError
from pfm_edge_runtime.package import ModelPackage

__all__ = ["export_run", "verify_against_run"]

Progress = Callable[[str], None]


def _silent(stage: str) -> None:
    """Show nothing."""


def export_run(
    run: Run,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> ExportReport:
    """Export a run's selected model as a model package, whole or not at all.

    Raises:
        RunError: the run has no checkpoint.
        ExportError: the graph cannot be made, or does not agree with torch.
        StorageError: `out` exists and `overwrite` is not set, or the disk refused.
    """
    progress("loading the run")
    model = load_model(run)
    return export_package(
        deployable_source(model, run.config.backbone),
        out,
        bundle=bundle_factory(run, model),
        overwrite=overwrite,
        max_classes=model.num_classes,
        progress=progress,
    )


def verify_against_run(package: Path, run: Run, *, progress: Progress = _silent) -> ParityReport:
    """Run a package's graph and the run's torch model side by side, over the whole grid.

    Raises:
        PackageError: the package is damaged.
        VerificationError: the package was not made from this run's selected model.
        ParityError: the outputs differ.
    """
    progress("loading the run")
    source = deployable_source(load_model(run), run.config.backbone)
    opened = ModelPackage.open(package)
    if opened.manifest.model_id != source.model_id:
        raise VerificationError(
            f"{package}: model {opened.manifest.model_id} was not exported from {run.path}'s "
            "checkpoint; export the run again, or name the right run"
        )
    progress("comparing with torch")
    return verify_package(opened, source, max_classes=len(run.classes))
