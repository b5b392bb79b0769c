"""A disk that fails at one chosen system call.

First the operation runs on a disk that only counts; then once more for every call it made, with
that call failing. So no point of failure is left out, and none is listed by hand::

    for fault in faults_of(operation):
        with fault.injected():
            operation()          # meets OSError(ENOSPC) at that call
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

CALLS = ("open", "write", "fsync", "link", "replace", "rename", "unlink", "mkdir")


@dataclass(frozen=True)
class Fault:
    """One call that fails: the ``number``-th of ``os.<call>``, from 1 up."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call}-{self.number}"

    @contextmanager
    def injected(self, code: int = errno.ENOSPC) -> Iterator[None]:
        seen = 0
        real = getattr(os, self.call)

        def failing(*args: object, **kwargs: object) -> object:
            nonlocal seen
            seen += 1
            if seen == self.number:
                raise OSError(code, os.strerror(code), args[0] if self.call == "open" else None)
            return real(*args, **kwargs)

        with mock.patch.object(os, self.call, failing):
            yield
        assert seen >= self.number, f"{self} was never reached"


def faults_of(operation: Callable[[], object]) -> list[Fault]:
    """Run the operation on a good disk; return every fault that could have struck it."""
    counts: Counter[str] = Counter()

    def counting(call: str) -> Callable[..., object]:
        real = getattr(os, call)

        def counted(*args: object, **kwargs: object) -> object:
            counts[call] += 1
            return real(*args, **kwargs)

        return counted

    with mock.patch.multiple(os, **{call: counting(call) for call in CALLS}):
        operation()
    return [Fault(call, n + 1) for call in CALLS for n in range(counts[call])]
