"""`pfm-edge verify`: does every graph of a package compute the model, here and now?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import print_json, say, stages
from pfm_edge.cli._sources import is_package, is_run
from pfm_edge_runtime._phrases import first_of
from pfm_edge_runtime.errors import ConfigError, PackageError

if TYPE_CHECKING:
    from pfm_edge_runtime.artefacts import VerifiedArtefact
    from pfm_edge_runtime.package import PackageFiles

__all__ = ["verify_command"]


def verify_command(
    package: Annotated[
        Path, typer.Argument(help="A model package of pfm-edge export, or what was made of one.")
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="The run it came from: compare with torch over the whole grid."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a package's digests and the outputs of every graph in it.

    Each graph runs on each backend that is installed, padded and masked where it is static.
    Without --run: against the golden vectors, recorded from torch at export, over batches
    1, 2, 5 and classes 1, 2, 7. With --run: against the run's torch model itself too, up to all
    of its classes.

    What was made of a package, as engines in it, is compared with its target.json, and not run.

    Example: pfm-edge verify model --run runs/digits
    """
    from pfm_edge.publishing import verify_against_run
    from pfm_edge.training import Run
    from pfm_edge_exporters import check_golden

    if is_run(package):
        raise ConfigError(
            f"{package} is a training run: pfm-edge verify MODEL --run {package}, where MODEL is "
            "what was exported from it"
        )
    artefacts = _verify_artefacts(package, run)
    if artefacts and not is_package(package):
        _tell(artefacts, as_json=as_json)
        return
    with stages("verify") as stage:
        reports = {"golden": check_golden(package, progress=lambda file: stage(f"running {file}"))}
        if run is not None:
            reports["parity"] = verify_against_run(package, Run.open(run), progress=stage)
    if as_json:
        found = {name: report.as_dict() for name, report in reports.items()}
        print_json({**found, "artefacts": [each.as_dict() for each in artefacts]})
        return
    against = {"golden": "golden vectors", "parity": "torch"}
    for name, report in reports.items():
        for graph in report.graphs:
            say(f"{package}: {against[name]}: {graph.summary()}")
        for refusal in report.refused:
            say(f"not run: {refusal}")
    _tell(artefacts, as_json=False)


def _verify_artefacts(directory: Path, run: Path | None) -> "list[VerifiedArtefact]":
    """Verify the engines in a package; or an artefact by itself, or those in a repository."""
    from pfm_edge_runtime.artefacts import RECORD_FILE, artefacts_in, verify_artefact
    from pfm_edge_runtime.manifest import MANIFEST_FILE
    from pfm_edge_runtime.package import PackageFiles, require_directory

    require_directory(directory)
    found = artefacts_in(directory)
    if not found and not is_package(directory):
        raise ConfigError(
            f"{directory} is no model package, and nothing in it was made of one: it holds neither "
            f"{MANIFEST_FILE} nor {RECORD_FILE}"
        )
    if found and run is not None and not is_package(directory):
        raise ConfigError(
            f"{found[0]} is compared with its own target.json alone: leave --run out, or name the "
            "model package that it was made of"
        )
    opened = PackageFiles.open(directory, verify_files=False) if is_package(directory) else None
    if opened is not None:
        _say_unlisted(opened)
    return [verify_artefact(each, package=opened) for each in found]


def _say_unlisted(package: "PackageFiles") -> None:
    """Name what lies in a package and is none of it.

    Raises:
        PackageError: An engine is among it.
    """
    from pfm_edge_runtime.artefacts import lost_engines, unlisted_files

    found = unlisted_files(package)
    for lost in lost_engines(package, found):
        raise PackageError(lost)
    if found:
        say(f"no part of the package: {first_of(found)}")


def _tell(artefacts: "list[VerifiedArtefact]", *, as_json: bool) -> None:
    if as_json:
        print_json({"artefacts": [each.as_dict() for each in artefacts]})
        return
    for each in artefacts:
        say(f"{each.directory}: {each.summary()}")
