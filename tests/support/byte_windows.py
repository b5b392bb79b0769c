"""Finds what is left of rows of numbers and of texts, anywhere in files.

A row counts as left behind if any 64 bytes of it stand together in a file, wherever they begin, as
float32 or as float16 (a shorter row counts whole)::

    marks = Marks.of({"prompt": row}, ["person-anna"])
    marks.found_below(run, package)          # [("checkpoint.safetensors", "prompt float32")]
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

_WINDOW, _WORD = 64, 8
_EVERY = _WINDOW // _WORD - 1  # any window of the row holds one of so many words in a row


@dataclass(frozen=True)
class Marks:
    """What must not be found: bytes by name; texts whole, rows in windows."""

    rows: Mapping[str, bytes]
    texts: tuple[bytes, ...]

    @classmethod
    def of(cls, rows: Mapping[str, ArrayLike], texts: Iterable[str]) -> "Marks":
        as_bytes = {}
        for name, row in rows.items():
            for kind in (np.float32, np.float16):
                numbers = np.asarray(row, dtype=np.float32).astype(kind)
                if (
                    len(np.unique(numbers)) > numbers.size // 2
                ):  # or it is mostly zeros, as are files
                    as_bytes[f"{name} {kind.__name__}"] = numbers.tobytes()
        return cls(as_bytes, tuple(text.encode() for text in texts))

    def found_in(self, data: bytes) -> list[str]:
        found = [name for name, row in self.rows.items() if _has_window(data, row)]
        return found + ["text" for text in self.texts if text in data]

    def found_below(self, *roots: Path) -> list[tuple[str, str]]:
        files = [file for root in roots for file in sorted(root.rglob("*")) if file.is_file()]
        found = [(file.name, what) for file in files for what in self.found_in(file.read_bytes())]
        names = [
            (str(path), "text in a name")
            for root in roots
            for path in root.rglob("*")
            if any(text in path.name.encode() for text in self.texts)
        ]
        return found + names


def _has_window(data: bytes, row: bytes) -> bool:
    wanted = min(_WINDOW, len(row))
    for begin in range(0, max(1, len(row) - _WORD + 1), _WORD * _EVERY):
        word, at = row[begin : begin + _WORD], -1
        while (at := data.find(word, at + 1)) >= 0:
            if _common(data, at, row, begin) >= wanted:
                return True
    return False


def _common(data: bytes, at: int, row: bytes, begin: int) -> int:
    """Length of the common stretch of both around one place."""
    left = right = 0
    while min(at, begin) > left and data[at - left - 1] == row[begin - left - 1]:
        left += 1
    while right < min(len(data) - at, len(row) - begin) and data[at + right] == row[begin + right]:
        right += 1
    return left + right
