"""Progress: silent for a second, then a line that changes or, in a log, a line now and then."""

import io

import pytest

from pfm_edge_runtime.cli._progress import Progress


class _Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("terminal", [True, False])
def test_short_work_is_silent(terminal: bool) -> None:
    stream, clock = _Stream(terminal=terminal), _Clock()
    with Progress("predicted", 20, stream=stream, clock=clock) as progress:
        for _ in range(20):
            clock.now += 0.04
            progress.advance(1)
    assert stream.getvalue() == ""


def test_a_terminal_has_one_line_that_changes() -> None:
    stream, clock = _Stream(terminal=True), _Clock()
    with Progress("predicted", 4, stream=stream, clock=clock) as progress:
        for _ in range(4):
            clock.now += 0.75
            progress.advance(1)
    shown = stream.getvalue()
    assert shown.endswith("\rpredicted 4 of 4 images\n")
    assert shown.count("\n") == 1
    assert "predicted 1 of" not in shown


def test_a_log_has_a_line_now_and_then() -> None:
    stream, clock = _Stream(terminal=False), _Clock()
    with Progress("embedded", 30, stream=stream, clock=clock) as progress:
        for _ in range(30):
            clock.now += 1
            progress.advance(1)
    assert stream.getvalue().splitlines() == [
        "embedded 1 of 30 images",
        "embedded 11 of 30 images",
        "embedded 21 of 30 images",
    ]


def test_the_line_ends_though_the_work_fails() -> None:
    stream, clock = _Stream(terminal=True), _Clock()
    progress = Progress("predicted", 4, stream=stream, clock=clock)
    with pytest.raises(KeyError), progress:  # noqa: PT012
        clock.now += 2
        progress.advance(1)
        raise KeyError
    assert stream.getvalue() == "\rpredicted 1 of 4 images\n"
