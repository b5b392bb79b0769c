"""`pfm-edge export --target …`: everything but a run's model package, and the list of targets.

Owns the words between the command line and `pfm_edge_exporters.targets`; `_export` owns the
command, and what it does for a run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pfm_edge.cli._console import bar, print_json, say
from pfm_edge.cli._forget import finish_run
from pfm_edge.cli._sources import is_package, is_run
from pfm_edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from pfm_edge_exporters.targets import Target

__all__ = [
    "Asked",
    "ForgetRun",
    "ListTargets",
    "TargetName",
    "TargetOptions",
    "Untracked",
    "onnx_source",
]

TargetName = Annotated[
    str, typer.Option("--target", metavar="NAME", help="What to make; see --list-targets.")
]
TargetOptions = Annotated[
    list[str] | None,
    typer.Option(
        "-O", "--option", metavar="KEY=VALUE", help="An option of the target; may be repeated."
    ),
]
ListTargets = Annotated[
    bool, typer.Option("--list-targets", help="Print the targets, and what each takes.")
]
ForgetRun = Annotated[
    Path | None,
    typer.Option(
        "--run", help="The run that a package came from: its forget shall reach the artefact."
    ),
]
Untracked = Annotated[
    bool, typer.Option("--untracked", help="Let no forget reach an artefact that holds classes.")
]

_ONNX = "onnx"
# What every target takes; whatever else the command has is the target onnx's own.
_SHARED = {
    "as_json",
    "forget_run",
    "list_targets",
    "out",
    "overwrite",
    "run",
    "target",
    "target_options",
    "untracked",
}
_OF_OTHERS = ("target_options", "forget_run", "untracked")


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of the command beside what the target onnx takes."""

    source: Path | None
    target: str
    options: Sequence[str]
    list_targets: bool
    run: Path | None
    untracked: bool


def onnx_source(context: typer.Context, asked: Asked) -> Path | None:
    """Do the command if it is about another target than onnx.

    Args:
        context: the command's.
        asked: its arguments.

    Returns:
        The run to export as a model package; None where the command is done.

    Raises:
        ConfigError: an option is not one of the target's, or the path is of the wrong kind.
    """
    from pfm_edge_exporters.targets import find_target

    if asked.list_targets:
        _list_targets(context)
        return None
    target = None if asked.target == _ONNX else find_target(asked.target)
    if asked.source is None:
        context.fail("Missing argument 'SOURCE': the run, or the model package, to export.")
    if target is None:
        _require_run(context, asked.source)
        return asked.source
    _require_own_options(context, target)
    _require_package(asked.source, target)
    _export(context, asked, target, asked.source)
    return None


def _require_run(context: typer.Context, source: Path) -> None:
    foreign = [name for name in _OF_OTHERS if _is_given(context, name)]
    if foreign:
        raise ConfigError(
            f"target {_ONNX} does not take {_spelling(context, foreign[0])}; its options are in "
            "pfm-edge export --help"
        )
    if is_package(source):
        raise ConfigError(
            f"{source} is a model package already: name what to make of it, as in --target triton"
        )


def _export(context: typer.Context, asked: Asked, target: "Target", package: Path) -> None:
    from pfm_edge.publishing import export_artefact
    from pfm_edge.training import Run
    from pfm_edge_exporters.targets import TARGETS, parse_options

    given, run = context.params, asked.run
    everyones = {name: each.options for name, each in TARGETS.items()}
    options: Any = parse_options(target.name, target.options, asked.options, everyones)
    if run is not None:
        finish_run(run)
    with bar("export") as update:
        report = export_artefact(
            package,
            target,
            options,
            out=given["out"] if _is_given(context, "out") else None,
            run=None if run is None else Run.open(run),
            overwrite=given["overwrite"],
            progress=lambda done, phase: update(int(100 * done), 100, phase),
        )
    if given["as_json"]:
        print_json(report.as_dict())
        return
    say(report.summary())
    if target.holds_classes:
        reach = "no forget reaches it" if run is None else f"pfm-edge forget {run} reaches it"
        say(f"{report.path}: class tensors are in it; {reach}")


def _require_own_options(context: typer.Context, target: "Target") -> None:
    """Refuse what the command takes for other targets, and what is missing for this one."""
    foreign = [name for name in context.params if name not in _SHARED and _is_given(context, name)]
    if foreign:
        raise ConfigError(
            f"target {target.name} does not take {_spelling(context, foreign[0])}, which is for "
            f"{_ONNX}; pfm-edge export --list-targets says what it takes"
        )
    run, untracked = _is_given(context, "forget_run"), _is_given(context, "untracked")
    if target.holds_classes and run and untracked:
        raise ConfigError(
            "--run lets a forget of the run reach the artefact, and --untracked lets none: give "
            "one of them, not both"
        )
    if target.holds_classes and not (run or untracked):
        raise ConfigError(
            f"target {target.name} writes class tensors: name the run whose forget shall reach "
            "them, --run RUN, or say --untracked"
        )
    if not target.holds_classes and (run or untracked):
        given = "--run" if run else "--untracked"
        raise ConfigError(f"target {target.name} writes no class: leave {given} out")


def _require_package(source: Path, target: "Target") -> None:
    if is_run(source):
        raise ConfigError(
            f"{source} is a training run, and target {target.name} takes a model package: "
            f"pfm-edge export {source} --out model makes one"
        )


def _list_targets(context: typer.Context) -> None:
    listed = list(_targets(context))
    if context.params["as_json"]:
        print_json({"targets": listed})
        return
    for each in listed:
        typer.echo(f"{each['name']}: {each['summary']}; takes a {each['takes']}")
        for option in each["options"]:
            value = f"={option['value']}" if option["value"] else ""
            default = f"  [default: {option['default']}]" if option["default"] else ""
            typer.echo(f"  {option['name']}{value}\n      {option['help']}{default}")


def _targets(context: typer.Context) -> Iterator[dict[str, Any]]:
    from pfm_edge_exporters.targets import ONNX_SUMMARY, TARGETS, describe_options

    yield {
        "name": _ONNX,
        "summary": ONNX_SUMMARY,
        "takes": "run",
        "holds_classes": True,
        "options": [
            {"name": usage, "value": "", "default": "", "help": text}
            for each in context.command.params
            if each.name not in _SHARED
            for usage, text in [each.get_help_record(context) or ("", "")]
        ],
    }
    for target in TARGETS.values():
        yield {
            "name": target.name,
            "summary": target.summary,
            "takes": "package",
            "holds_classes": target.holds_classes,
            "options": [
                {
                    "name": f"-O {each.name}",
                    "value": each.kind,
                    "default": each.default,
                    "help": each.help,
                }
                for each in describe_options(target.options)
            ],
        }


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _spelling(context: typer.Context, name: str) -> str:
    return next(max(each.opts, key=len) for each in context.command.params if each.name == name)
