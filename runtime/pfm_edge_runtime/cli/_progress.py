"""Progress on standard error, for work that takes longer than a second.

Owns when and how often to speak: a terminal has one line that changes, a log file a line now and
then::

    with Progress("predicted", total=500) as progress:
        progress.advance(16)
"""

import sys
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TextIO

__all__ = ["Progress"]

_SILENT_SECONDS = 1.0
_TERMINAL_SECONDS = 0.1  # between two updates of a terminal's line
_LOG_SECONDS = 10.0  # between two lines of a log


class Progress:
    """Counts images, or what else takes long, and says so.

    Args:
        done: Word for what was done with them, as ``"predicted"``.
        total: Number of them.
        unit: What is counted.
        stream: Where to say it; standard error if ``None``.
        clock: Seconds from some fixed moment.
    """

    def __init__(
        self,
        done: str,
        total: int,
        *,
        unit: str = "images",
        stream: TextIO | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._done = done
        self._total = total
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._count = 0
        self._next = clock() + _SILENT_SECONDS
        self._open_line = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open_line:
            self._stream.write("\n")

    def advance(self, count: int) -> None:
        """Count ``count`` more."""
        self._count += count
        now = self._clock()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_SECONDS if self._terminal else _LOG_SECONDS)
        text = f"{self._done} {self._count} of {self._total} {self._unit}"
        self._stream.write(f"\r{text}" if self._terminal else f"{text}\n")
        self._stream.flush()
        self._open_line = self._terminal
