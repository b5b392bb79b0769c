"""`pfm-edge verify --run` without its command line.

report = verify_against_run(Path("model"), Run.open(path))
report.worst, [each.variant.file for each in report.graphs]
"""

from collections.abc import Callable
from pathlib import Path

from pfm_edge.publishing._source import deployable_source
from pfm_edge.training import Run, load_model
from pfm_edge_exporters import VerificationReport, verify_package
from pfm_edge_runtime.errors import VerificationError
from pfm_edge_runtime.package import ModelPackage

__all__ = ["verify_against_run"]


def _silent(stage: str) -> None:
    """Show nothing."""


def verify_against_run(
    package: Path, run: Run, *, progress: Callable[[str], None] = _silent
) -> VerificationReport:
    """Run every graph of a package and the run's torch model side by side, over the whole grid.

    Args:
        package: the package.
        run: what it was exported from.
        progress: told of each graph as it begins.

    Raises:
        PackageError: the package is damaged.
        VerificationError: the package was not made from this run's selected model.
        ParityError: the outputs differ.
        BackendError: a graph cannot be loaded here.
    """
    progress("loading the run")
    source = deployable_source(load_model(run), run.config.backbone)
    opened = ModelPackage.open(package)
    if opened.manifest.model_id != source.model_id:
        raise VerificationError(
            f"{package}: model {opened.manifest.model_id} was not exported from {run.path}'s "
            "checkpoint; export the run again, or name the right run"
        )

    def comparing(file: str) -> None:
        progress(f"comparing {file} with torch")

    return verify_package(opened, source, max_classes=len(run.classes), progress=comparing)
