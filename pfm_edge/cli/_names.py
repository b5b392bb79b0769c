"""Classes that a person names: as the device's command line reads them, with our words.

names = read_names(["-"])       # one per line of standard input
"""

from collections.abc import Sequence

from pfm_edge.cli._console import say
from pfm_edge_runtime.cli import _names as device

__all__ = ["read_names"]


def read_names(given: Sequence[str]) -> list[str]:
    """Return the names that are meant; a single `-` reads one per line of standard input.

    A label among the arguments is taken, with a warning: it stays in the shell's history.

    Raises:
        ConfigError: `-` beside other names, or standard input is empty or no UTF-8.
    """
    advice = "give class ids, or --class - and labels on standard input"
    return device.read_names(given, warn=lambda: say(f"{device.LABEL_WARNING}: {advice}"))
