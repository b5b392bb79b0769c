"""The workstation's command line, `pfm-edge`: a skin over the library.

`main(argv)` is the one place where errors become a line and an exit code: 0 done, 1 an error of
ours with one clear line, 2 wrong usage. Commands import what they need when they run, so that
`--help` does not wait for PyTorch.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from pfm_edge.cli import (
    _bundle,
    _demo,
    _evaluate,
    _export,
    _forget,
    _keys,
    _ota,
    _train,
    _verify,
    _weights,
)
from pfm_edge.cli._console import say
from pfm_edge_runtime.errors import PfmEdgeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="pfm-edge",
    help="Train, evaluate and export pre-forgettable vision models for edge devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback behind an error.")
    ] = False,
) -> None:
    pass


app.command("train")(_train.train_command)
app.command("evaluate")(_evaluate.evaluate_command)
app.command("export")(_export.export_command)
app.command("verify")(_verify.verify_command)
app.command("forget")(_forget.forget_command)
app.command("demo")(_demo.demo_command)
app.add_typer(_bundle.app, name="bundle")
app.add_typer(_keys.app, name="keys")
app.add_typer(_ota.app, name="ota")
app.add_typer(_weights.app, name="weights")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pfm-edge` and return its exit code.

    Args:
        argv: arguments without the program's name; the process's own by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        app(args=arguments, standalone_mode=True)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 1
    except PfmEdgeError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        say(f"error: {error}")
        return 1
    except OSError as error:  # whatever a disk or a pipe refuses outside our own writes
        if "--debug" in arguments:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}; check the path and the space on the disk")
        return 1
    return 0
