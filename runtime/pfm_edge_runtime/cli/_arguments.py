"""Arguments that several commands share.

Owns how a command is declared, how images and keys are named on the command line, and how many
images are in memory at once::

    parser = add_command(commands, "classes", "List the classes.", example, run)
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from pfm_edge_runtime.errors import ImageError, KeyFileError
from pfm_edge_runtime.manifest import Precision

if TYPE_CHECKING:
    from pfm_edge_runtime.classifier import Classifier
    from pfm_edge_runtime.keys import PublicKey

__all__ = [
    "Commands",
    "add_command",
    "add_image_arguments",
    "add_plain_command",
    "add_state_argument",
    "add_state_arguments",
    "batches",
    "find_images",
    "open_classifier",
    "positive",
    "read_public_key_file",
]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_MAX_KEY_BYTES = 2**16
_BATCH = 16  # images between two reports of progress
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def add_command(
    commands: Commands,
    name: str,
    summary: str,
    example: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    """Declare a command that works on a model package."""
    parser = add_plain_command(commands, name, summary, example, run)
    parser.add_argument("model", type=Path, metavar="MODEL", help="directory of the model package")
    add_state_arguments(parser)
    return parser


def add_plain_command(
    commands: Commands,
    name: str,
    summary: str,
    example: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    """Declare a command that says itself what it works on."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    # SUPPRESS: a --debug before the command must survive the command's own default.
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser.set_defaults(run=run)
    return parser


def add_state_argument(parser: argparse.ArgumentParser) -> None:
    """Declare where the device's memory is."""
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="the device's memory (default: $PFM_EDGE_STATE, or the system's place for it)",
    )


def add_state_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the device's memory is, and whether it must be there."""
    add_state_argument(parser)
    parser.add_argument(
        "--require-state",
        action="store_true",
        help="refuse to trust on first use: the memory must be there and say whom to trust",
    )


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the images and what it takes to run the graph on them."""
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="image file, or directory of image files (not its subdirectories)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="threads to run on (default: every core)"
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="what the graph must compute in (default: the first graph that runs here)",
    )
    parser.add_argument(
        "--variant",
        metavar="FILE",
        help="graph of the package to run, as backbone.fp16.onnx (default: as for --precision)",
    )


def open_classifier(arguments: argparse.Namespace) -> "Classifier":
    """Open the model that the arguments of an image command name.

    Raises:
        PfmEdgeError: As for ``Classifier.open``.
    """
    from pfm_edge_runtime.classifier import Classifier

    return Classifier.open(
        arguments.model,
        state=arguments.state,
        require_state=arguments.require_state,
        threads=arguments.threads,
        variant=arguments.variant,
        precision=arguments.precision,
    )


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are meant: a directory stands for its image files, sorted by name.

    Raises:
        ImageError: A directory cannot be read, or holds no image file.
    """
    found: list[Path] = []
    for path in paths:
        is_directory = os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises what this answers)
        found += _in_directory(path) if is_directory else [path]
    return found


def read_public_key_file(path: Path) -> "PublicKey":
    """Read a public key that was named on the command line.

    Raises:
        KeyFileError: It cannot be read, or is none.
    """
    from pfm_edge_runtime.keys import public_from_pem
    from pfm_edge_runtime.store import without_waiting

    try:
        with open(path, "rb", opener=without_waiting) as file:
            return public_from_pem(file.read(_MAX_KEY_BYTES))
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from error


def batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Split a long list, to report progress in between."""
    for begin in range(0, len(files), _BATCH):
        yield list(files[begin : begin + _BATCH])


def _in_directory(directory: Path) -> list[Path]:
    try:
        found = sorted(
            path
            for path in directory.iterdir()
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise ImageError(f"{directory} cannot be read: {error.strerror or error}") from error
    if not found:
        raise ImageError(f"{directory} holds no image file ({', '.join(sorted(_SUFFIXES))})")
    return found


def positive(text: str) -> int:
    """Read a whole number from 1 up; argparse says what is wrong with another."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return number
