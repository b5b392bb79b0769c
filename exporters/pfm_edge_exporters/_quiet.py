"""Four remarks of torch that a user of an exporter cannot use, and nothing more, kept back.

When torch cannot trace a module it raises, and the exporter says in one line what that means. It
also logs and prints, for people who debug torch: those remarks, and no others, are dropped::

    with quiet_torch():
        program = torch.export.export(...)
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import TextIO, cast

__all__ = ["quiet_torch"]

_REMARKS = {
    # Comes with the exception for a branch on a value, which _reason puts into words.
    "torch.fx.experimental.symbolic_shapes": "Unable to find user code",
    # A link to torch's catalogue of what it cannot export, logged beside the exception.
    "torch.export._trace": "exportdb",
    # Constants that it leaves to us: _fold computes them.
    "onnxscript.optimizer._constant_folding": "Skipping constant folding",
}
_PROGRAM = "def forward(self, arg0_1"  # what the partial program starts with, after blank lines


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Drop the four remarks while the block runs; everything else is logged and printed."""
    with ExitStack() as stack:
        for name, remark in _REMARKS.items():
            stack.enter_context(_without(logging.getLogger(name), remark))
        stack.enter_context(redirect_stderr(cast("TextIO", _WithoutPrograms(sys.stderr))))
        yield


@contextmanager
def _without(logger: logging.Logger, remark: str) -> Iterator[None]:
    def wanted(record: logging.LogRecord) -> bool:
        return remark not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


class _WithoutPrograms:
    """Standard error, but for the program traced so far, which torch prints before it raises."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        ending = self._dropped and text == "\n"  # print() writes its line end by itself
        self._dropped = _PROGRAM in text
        if ending or self._dropped:
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
