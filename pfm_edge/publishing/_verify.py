"""`pfm-edge verify --run` without its command line.

report = verify_against_run(Path("model"), Run.open(path))
report.worst, [each.variant.file for each in report.graphs]
"""

from collections.abc import Callable
from pathlib import Path

from pfm_edge.publishing._source import deployable_source
from pfm_edge.training import Run, load_model
from pfm_edge_exporters import TorchSource, VerificationReport, verify_package
from pfm_edge_runtime.errors import ConfigError, VerificationError
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
    opened = ModelPackage.open(package)
    source = _source_of(opened, run)
    if source is None or opened.manifest.model_id != source.model_id:
        raise VerificationError(
            f"{package}: model {opened.manifest.model_id} was not exported from {run.path}'s "
            "checkpoint; export the run again, or name the right run"
        )

    def comparing(file: str) -> None:
        progress(f"comparing {file} with torch")

    return verify_package(opened, source, max_classes=len(run.classes), progress=comparing)


def _source_of(package: ModelPackage, run: Run) -> TorchSource | None:
    """Return the run's model for images of the package's size, if it takes such images."""
    model, config = load_model(run), run.config.backbone
    source = deployable_source(model, config)
    height, width = package.manifest.image.shape[1:]
    if source.image.shape[1:] == (height, width):
        return source
    try:
        return deployable_source(model, config, (height, width))
    except ConfigError:
        return None
