"""The command ``pfm-device``: predict, and forget, on a device.

Owns exit codes and error lines; every command is a module of its own, and a skin over the
library::

    main(["predict", "model/", "photo.jpg"])     # 0

Exit codes: 0 done; 1 an error of ours, in one line on standard error; 2 wrong usage; 75 an update
that may succeed later by itself.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from pfm_edge_runtime.cli import (
    _classes,
    _doctor,
    _embed,
    _forget,
    _init,
    _predict,
    _receipts,
    _update,
)
from pfm_edge_runtime.cli._output import note, printable
from pfm_edge_runtime.errors import PfmEdgeError

__all__ = ["main"]

_OK, _ERROR, _USAGE = 0, 1, 2
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_EXAMPLE = """\
example:
  pfm-device predict model/ photo.jpg
  pfm-device classes model/
  pfm-device forget model/ 0f5c2a9be1d84c6f93a7d0e25b18c47a
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``argv`` defaults to the process's arguments."""
    _accept_any_text()
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why, or shown the help
        return stop.code if isinstance(stop.code, int) else _USAGE
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except PfmEdgeError as error:
        if arguments.debug:
            raise
        return _fail(str(error), _TRY_AGAIN if error.may_pass else _ERROR)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:  # the library lets none through: it is our own output
        _drop_output()
        if isinstance(error, BrokenPipeError):  # the reader has seen enough, as head does
            return _ERROR
        done = f"; {arguments.done}" if hasattr(arguments, "done") else ""
        return _fail(f"the output cannot be written: {error.strerror or error}{done}")
    return _OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pfm-device",
        description="Predict with a pre-forgettable model, and make it forget.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pfm-device {_version()}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (_predict, _embed, _classes, _forget, _receipts, _init, _update, _doctor):
        command.add_to(commands)
    return parser


def _version() -> str:
    try:
        return version("pfm-edge-runtime")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def _fail(message: str, code: int = _ERROR) -> int:
    note(f"pfm-device: error: {printable(message)}")
    return code


def _accept_any_text() -> None:
    """Let labels and file names of any script pass, whatever the terminal's encoding."""
    if sys.stdout is None:  # started with a closed output: there is nobody to tell
        sys.stdout = io.StringIO()
    if sys.stderr is None:
        sys.stderr = io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Point standard output at nothing, so that leaving Python does not fail on it once more."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # no file behind it, as in a test
        return
