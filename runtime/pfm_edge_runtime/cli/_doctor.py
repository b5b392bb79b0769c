"""``pfm-device doctor``: what is wrong, and how to mend it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pfm_edge_runtime.cli._arguments import Commands, add_plain_command, add_state_arguments
from pfm_edge_runtime.cli._output import note, write_json, write_row
from pfm_edge_runtime.cli._progress import Progress
from pfm_edge_runtime.errors import DoctorError, StateMissingError

if TYPE_CHECKING:
    from pfm_edge_runtime.doctor import Check

__all__ = ["add_to"]

_EXAMPLE = """\
  pfm-device doctor
  pfm-device doctor model/ --require-state
  pfm-device doctor --repair
"""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = add_plain_command(
        commands,
        "doctor",
        "Verify the device's memory and its packages, run every graph on its golden vectors, "
        "finish what a power cut left, and say how to mend the rest.",
        _EXAMPLE,
        _run,
    )
    parser.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL", help="directory of a model package"
    )
    add_state_arguments(parser)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="mend the memory: go on with the intact records of a damaged ledger, take access "
        "from others, erase what a crash left",
    )


def _run(arguments: argparse.Namespace) -> None:
    from pfm_edge_runtime.doctor import mend_state
    from pfm_edge_runtime.state import default_state_directory

    directory: Path = arguments.state or default_state_directory()
    done: list[str] = []
    if arguments.repair:
        try:
            done = mend_state(directory)
        except StateMissingError as error:
            note(f"pfm-device: {error}")
    found = _examine(directory, arguments)
    if arguments.json:
        checks = [{"package": package, **_as_json(check)} for package, check in found]
        write_json({"repaired": done, "checks": checks})
    else:
        for line in done:
            write_row("repaired", line)
        for package, check in found:
            _write(package, check)
    problems = sum(check.status == "problem" for _, check in found)
    if problems:
        raise DoctorError(f"{problems} of {len(found)} checks found a problem")


def _examine(directory: Path, arguments: argparse.Namespace) -> "list[tuple[str | None, Check]]":
    """Look at the state, then at each package, then for what still waits."""
    from pfm_edge_runtime.doctor import (
        examine_model,
        examine_rest,
        examine_state,
        open_for_examination,
        package_bytes,
    )

    need: bool = arguments.require_state
    found: list[tuple[str | None, Check]] = [
        (None, check) for check in examine_state(directory, require_state=need)
    ]
    state = open_for_examination(directory)
    total = sum(package_bytes(model) for model in arguments.models)
    with Progress("verified", total, unit="bytes") as progress:
        for model in arguments.models:
            checks = examine_model(model, state, require_state=need, report=progress.advance)
            found += [(str(model), check) for check in checks]
    found += _run_graphs(arguments.models, {package for package, check in found if _bars(check)})
    return found + [(None, check) for check in examine_rest(directory)]


def _bars(check: "Check") -> bool:
    """Tell whether graphs cannot be run after that: their files are not what they should be."""
    return check.status == "problem" and check.name in {"manifest", "files"}


def _run_graphs(
    models: "list[Path]", barred: "set[str | None]"
) -> "list[tuple[str | None, Check]]":
    from pfm_edge_runtime.graph_checks import examine_graphs, graph_count

    sound = [model for model in models if str(model) not in barred]
    with Progress("ran", sum(map(graph_count, sound)), unit="graphs") as progress:
        return [
            (str(model), check)
            for model in sound
            for check in examine_graphs(model, report=progress.advance)
        ]


def _write(package: str | None, check: "Check") -> None:
    name = check.name if package is None else f"{package}: {check.name}"
    write_row(check.status, name, check.finding)
    if check.fix:
        write_row("", "", f"mend it: {check.fix}" if check.status == "problem" else check.fix)


def _as_json(check: "Check") -> dict[str, str]:
    return {
        "name": check.name,
        "status": check.status,
        "finding": check.finding,
        "fix": check.fix,
    }
