"""Classes that a person names: as arguments, or on standard input, where labels belong.

Owns what both command lines, the device's and the workstation's, take for a list of names::

    read_names(["-"], warn=lambda: note("..."))       # one per line of standard input
"""

import sys
from collections.abc import Callable, Sequence

from pfm_edge_runtime.errors import ConfigError

__all__ = ["LABEL_WARNING", "read_names"]

LABEL_WARNING = (
    "warning: a label on the command line stays in the shell's history and shows in process lists"
)
_STANDARD_INPUT = "-"


def read_names(given: Sequence[str], *, warn: Callable[[], None]) -> list[str]:
    """Return the names that are meant; a single ``-`` reads one per line of standard input.

    Args:
        given: The arguments.
        warn: Called if a label is among them: it stays in the shell's history.

    Raises:
        ConfigError: ``-`` beside other names, or standard input is empty or no UTF-8.
    """
    from pfm_edge_runtime.bundle import is_class_id

    if list(given) == [_STANDARD_INPUT]:
        return _from_standard_input()
    if _STANDARD_INPUT in given:
        raise ConfigError("- stands for standard input: give it alone, or name the classes")
    if not all(is_class_id(name) for name in given):
        warn()
    return list(given)


def _from_standard_input() -> list[str]:
    """Read names, one per line, exactly as they are but for the line end."""
    try:
        lines = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError("standard input is no UTF-8: write the labels in UTF-8") from error
    except (AttributeError, OSError) as error:  # closed, or a directory
        raise ConfigError("standard input cannot be read") from error
    names = [name for line in lines if (name := line.removesuffix("\r"))]
    if not names:
        raise ConfigError("standard input is empty: give one class id or label per line")
    return names
