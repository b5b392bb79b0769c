"""A process of its own for a scenario: to be traced, or to be killed.

    python -m tests.support.crash_process record forget ROOT      # prints what it did
    python -m tests.support.crash_process kill forget SOURCE TARGET

``kill`` leaves one copy of SOURCE below TARGET for each way in which SIGKILL ended the operation:
``after-3`` (its third call returned), ``within-2`` (half of its second write was done), and
``outside-7`` (somebody else's kill, at a moment drawn at random). Its children are forks, because
starting Python that often would take minutes.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from tests.support.crash_scenarios import SCENARIOS, Scenario
from tests.support.disk_events import Step
from tests.support.recorded_disk import recorded

_OUTSIDE = 20


def main() -> None:
    command, name, source, *target = sys.argv[1:]
    if command == "record":
        with recorded(Path(source)) as recording:
            SCENARIOS[name].run(Path(source))
        sys.stdout.write(json.dumps([[step.call, step.path] for step in recording.steps]))
    else:
        _kill_everywhere(SCENARIOS[name], Path(source), Path(target[0]))


def _kill_everywhere(scenario: Scenario, source: Path, target: Path) -> None:
    def killed(name: str, how: Callable[[Path], Any], after: float | None = None) -> bool:
        root = target / name
        shutil.copytree(source, root)
        return _child_was_killed(lambda: scenario.run(root), how(root), after)

    for number in count(1):
        if not killed(f"after-{number}", lambda root, n=number: _killing_after(root, n)):
            shutil.rmtree(target / f"after-{number}")
            break
    for number in count(1):
        if not killed(f"within-{number}", lambda root, n=number: _killing_within(n)):
            shutil.rmtree(target / f"within-{number}")
            break
    started = time.perf_counter()
    killed("complete", lambda root: nullcontext())
    longest, random = time.perf_counter() - started, Random(0)
    for number in range(_OUTSIDE):
        killed(f"outside-{number}", lambda root: nullcontext(), random.uniform(0, longest))


def _child_was_killed(run: Callable[[], object], hooks: Any, after: float | None) -> bool:
    child = os.fork()
    if child == 0:
        try:
            with hooks:
                run()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit("the operation failed")
    return False


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _killing_after(root: Path, number: int) -> Iterator[None]:
    numbers = count(1)

    def step(_: Step) -> None:
        if next(numbers) == number:
            _kill_self()

    with recorded(root, step):
        yield


@contextmanager
def _killing_within(number: int) -> Iterator[None]:
    numbers = count(1)

    def torn(real: Callable[..., int]) -> Callable[..., int]:
        def write(descriptor: int, data: Any, *offset: int) -> int:
            if next(numbers) == number:
                real(descriptor, memoryview(data)[: len(data) // 2], *offset)
                _kill_self()
            return real(descriptor, data, *offset)

        return write

    with mock.patch.multiple(os, write=torn(os.write), pwrite=torn(os.pwrite)):
        yield


if __name__ == "__main__":
    main()
