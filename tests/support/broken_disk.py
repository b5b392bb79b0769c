"""A disk that breaks during an operation: at one call, or from that call on.

Where :mod:`tests.support.failing_disk` strikes one kind of call, this one counts every call that
changes the disk, so that "from then on" means all of them: a full disk, a read-only remount::

    for number in range(1, 1 + calls_of(operation)):
        with broken(number, errno.ENOSPC, stays=True):
            operation()
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any
from unittest import mock

_CALLS = ("open", "write", "pwrite", "fsync", "ftruncate", "link", "replace", "rename", "unlink")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_Strike = Callable[[str, tuple[Any, ...]], int | None]


def calls_of(operation: Callable[[], object]) -> int:
    """Run the operation on a good disk; return how many calls could fail."""
    seen: list[str] = []
    with _struck(lambda name, args: seen.append(name)):
        operation()
    return len(seen)


@contextmanager
def broken(number: int, code: int, *, stays: bool, half: bool = False) -> Iterator[None]:
    """Let the ``number``-th call fail, from 1 up.

    Args:
        number: Which call.
        code: The ``errno`` that it meets.
        stays: Whether every call after it fails as well.
        half: Whether a write that is struck does half of its work first; what is left fails.
    """
    numbers, halved = count(1), False

    def strike(name: str, args: tuple[Any, ...]) -> int | None:
        nonlocal halved
        at = next(numbers)
        if at == number and half and name in {"write", "pwrite"} and len(args[1]) > 1:
            halved = True
            return len(args[1]) // 2
        if at == number or (at > number and stays) or (at == number + 1 and halved):
            raise OSError(code, os.strerror(code))
        return None

    with _struck(strike):
        yield


@contextmanager
def _struck(strike: _Strike) -> Iterator[None]:
    with ExitStack() as stack:
        for name in _CALLS:
            stack.enter_context(mock.patch.object(os, name, _wrapped(name, strike)))
        yield


def _wrapped(name: str, strike: _Strike) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if name != "open" or args[1] & _WRITING:
            length = strike(name, args)
            if length is not None:
                return real(args[0], memoryview(args[1])[:length], *args[2:])
        return real(*args, **kwargs)

    return call
