"""Phrases that many messages share.

Owns how they are put, so that every message says them alike::

    nearest("daysy", ["daisy", "rose"])      # " (did you mean 'daisy'?)"
    class_count(1)                           # "1 class"
    first_of(["a", "b", "c", "d", "e"])      # "a, b, c and 2 more"
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = ["class_count", "first_of", "nearest"]

_LEAST_SIMILAR = 0.5  # below that, difflib's ratio finds names that no one meant
_NAMED = 3  # a line has room for so many


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name closest to ``name``, or nothing if none is close."""
    by_folded = {each.casefold(): each for each in known}
    found = get_close_matches(name.casefold(), by_folded, n=1, cutoff=_LEAST_SIMILAR)
    return f" (did you mean {by_folded[found[0]]!r}?)" if found else ""


def class_count(count: int) -> str:
    """Return a number of classes in words."""
    return "1 class" if count == 1 else f"{count} classes"


def first_of(things: Sequence[object]) -> str:
    """Name the first of some things, and how many more there are."""
    more = f" and {len(things) - _NAMED} more" if len(things) > _NAMED else ""
    return ", ".join(map(str, things[:_NAMED])) + more
