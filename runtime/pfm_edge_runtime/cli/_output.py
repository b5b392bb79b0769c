"""What the commands write: results on standard output, everything else on standard error.

Owns the two streams and the forms a result may take::

    write_json({"classes": []})
    write_row("photo.jpg", "daisy", "0.981")
"""

import json
import re
import sys
from collections.abc import Mapping

__all__ = ["note", "printable", "write_json", "write_row"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def write_json(value: Mapping[str, object]) -> None:
    """Write one JSON object on one line; ASCII, so that no encoding can spoil it."""
    sys.stdout.write(json.dumps(value) + "\n")


def write_row(*columns: str) -> None:
    """Write one line of columns with tabs between them."""
    sys.stdout.write("\t".join(printable(column) for column in columns) + "\n")


def note(line: str) -> None:
    """Write one line for a person on standard error."""
    sys.stderr.write(f"{line}\n")


def printable(text: str) -> str:
    """Escape line ends and control characters: a file's name must not steer the terminal."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
