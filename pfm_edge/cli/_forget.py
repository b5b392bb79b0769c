"""`pfm-edge forget`: classes out of a training run and out of what was exported from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import can_ask, print_json, say
from pfm_edge.cli._names import read_names
from pfm_edge.cli._sources import is_package
from pfm_edge_runtime._phrases import class_count
from pfm_edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from pfm_edge.erasing import RunForgotten
    from pfm_edge_runtime.bundle import ClassId
    from pfm_edge_runtime.erasure import OldBytes

__all__ = ["finish_run", "forget_command"]

_STAYS = (
    "What stays: the weights that all classes share, and the optimiser's memory of them, were "
    "trained on its images; the images themselves; its id, and figures logged under that; copies "
    "outside this run and the packages named; disk blocks that training freed before."
)


def forget_command(
    run: Annotated[Path, typer.Argument(help="A run directory of pfm-edge train.")],
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="ID",
            help="A class id, or a label; may be repeated; - reads standard input.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Forget classes of a run: prompts, head rows, optimiser state, labels, exported packages.

    A forget that was interrupted is finished by the next one; without --class it does that alone.

    Example: pfm-edge forget runs/digits --class 5f0c6e3e9d6c4b7f8a1b2c3d4e5f6071
    """
    from pfm_edge.erasing import find_classes, forget_in_run, overdue_classes

    overdue = overdue_classes(run)
    names = read_names(class_) if class_ else ([] if overdue else [_ask()])
    class_ids = tuple(dict.fromkeys((*overdue, *find_classes(run, names))))
    if not yes:
        _confirm(run, class_ids)
    report = forget_in_run(run, class_ids)
    if as_json:
        print_json({"run": str(run), **report.as_dict()})
    else:
        _print(run, report)


def finish_run(path: Path) -> None:
    """Finish what a forget of the run that was killed left to do, and say so."""
    from pfm_edge.erasing import finish_forgetting

    report = finish_forgetting(path)
    if report is not None:
        forgotten = class_count(len(report.class_ids))
        say(f"{path}: an interrupted forget of {forgotten} is finished now")


def _ask() -> str:
    if not can_ask():
        raise ConfigError("no class is named: give --class ID, or --class - and standard input")
    answer: str = typer.prompt("Class id or label", err=True)
    return answer


def _confirm(run: Path, class_ids: tuple["ClassId", ...]) -> None:
    if not can_ask():
        raise ConfigError("nobody can be asked here: add --yes to forget without")
    for class_id in class_ids:
        say(f"class {class_id}")
    typer.confirm(f"Forget {class_count(len(class_ids))} of {run} for good?", abort=True, err=True)


def _print(run: Path, report: "RunForgotten") -> None:
    for class_id in report.class_ids:
        typer.echo(f"forgotten: {class_id}")
    for path, old in report.checkpoints.items():
        say(f"{path}: rewritten; its old bytes were {_deed(old)}")
    for package in report.packages:
        say(f"{package}: holds none of them")
    if exported := next(filter(is_package, report.packages), None):
        say(_way_on(run, exported))
    for package in report.missing:
        say(f"{package}: not found; if that package is elsewhere, it holds them still")
    say(_STAYS)


def _way_on(run: Path, package: Path) -> str:
    """Say how devices elsewhere get a bundle that they take."""
    from pfm_edge_runtime.artefacts import artefacts_in

    first = "move its engines out first and build them again; " if artefacts_in(package) else ""
    return (
        "A device elsewhere that has used such a package refuses it now, as classes are missing: "
        f"issue a new bundle with pfm-edge ota publish REPOSITORY {package}, or export again with "
        f"the options that it was exported with ({first}--key, where it was signed): "
        f"pfm-edge export {run} --out {package} --overwrite"
    )


def _deed(old: "OldBytes") -> str:
    if old.method != "overwritten":
        return f"{old.method} only: the file has other names, or {old.file_system} no hard links"
    return {
        True: f"overwritten in place ({old.file_system})",
        False: f"overwritten, but {old.file_system} may keep them elsewhere on the disk",
        None: f"overwritten; whether in place is not known of {old.file_system}",
    }[old.in_place]
