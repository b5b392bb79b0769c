"""Classes that a person names: as arguments, or on standard input, where labels belong.

names = read_names(["-"])       # one per line of standard input
"""

import sys
from collections.abc import Sequence

from pfm_edge.cli._console import say
from pfm_edge_runtime.errors import ConfigError

__all__ = ["read_names"]

_STANDARD_INPUT = "-"


def read_names(given: Sequence[str]) -> list[str]:
    """Return the names that are meant; a single `-` reads one per line of standard input.

    A label among the arguments is taken, with a warning: it stays in the shell's history.

    Raises:
        ConfigError: `-` beside other names, or standard input is empty or no UTF-8.
    """
    from pfm_edge_runtime.bundle import is_class_id

    if list(given) == [_STANDARD_INPUT]:
        return _from_standard_input()
    if _STANDARD_INPUT in given:
        raise ConfigError("- stands for standard input: give it alone, or name the classes")
    if not all(is_class_id(name) for name in given):
        say(
            "warning: a label on the command line stays in the shell's history and shows in "
            "process lists: give class ids, or --class - and labels on standard input"
        )
    return list(given)


def _from_standard_input() -> list[str]:
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
