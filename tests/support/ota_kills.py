"""A process that updates a device and is killed: at, between and inside of all its states.

    python -m tests.support.ota_kills SOURCE TARGET URL

SOURCE holds ``model`` and ``state``. Each death leaves a copy of it below TARGET, named after the
moment: ``entering-fetch-4``, ``leaving-fetch-5`` (the observer's fourth and fifth word), and
``within-fetch-4-2`` (two fifths of the way through what happened in that state, counted in calls
of functions). What a run without a death does is in ``complete``. Every child is a fork: starting
Python that often would take minutes.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model

__all__ = ["killing_update", "update_root"]

_PARTS = 5  # a state is cut into so many, and the process dies between them


def update_root(root: Path, url: str, observer: Callable[[str], None]) -> object:
    """Update the device in a directory."""
    options = UpdateOptions(observer=observer, attempts=1, require_state=True)
    source = open_source(url, options)
    return update_model(root / "model", source, state=root / "state", options=options)


@dataclass(slots=True)
class _Counter:
    """Counts what is called between two words of the observer.

    Attributes:
        words: What the observer heard, each with the calls that followed it.
    """

    words: list[tuple[str, int]] = field(default_factory=list)
    calls: int = 0

    def observe(self, word: str) -> None:
        self._close()
        self.words.append((word, 0))
        sys.setprofile(self._count)

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        self.calls += 1

    def _close(self) -> None:
        sys.setprofile(None)
        if self.words:
            self.words[-1] = self.words[-1][0], self.calls
        self.calls = 0


@dataclass(slots=True)
class _Killer:
    """Kills its own process at a word of the observer, or so many calls after it."""

    word: int
    calls: int = 0
    heard: int = 0

    def observe(self, word: str) -> None:
        if self.heard == self.word:
            if self.calls:
                sys.setprofile(self._count)
            else:
                _die()
        self.heard += 1

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        self.calls -= 1
        if self.calls <= 0:
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killing_update(source: Path, target: Path, url: str) -> None:
    """Leave a copy of a device for every moment at which its update may be killed."""
    complete = Path(shutil.copytree(source, target / "complete"))
    words = _counted(complete, url)
    for name, killer in _moments(words):
        root = Path(shutil.copytree(source, target / name))
        _, status = os.waitpid(_forked(partial(update_root, root, url, killer.observe)), 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"{name}: it lived on")


def _moments(words: list[tuple[str, int]]) -> Iterator[tuple[str, _Killer]]:
    for number, (word, calls) in enumerate(words):
        kind, _, state = word.partition(":")
        yield f"{'entering' if kind == 'enter' else 'leaving'}-{state}-{number}", _Killer(number)
        if kind == "enter":
            # The last tenth is left out: what is cached there may make a run shorter than the next.
            for part in range(1, _PARTS):
                at = max(1, calls * part * 9 // (_PARTS * 10))
                yield f"within-{state}-{number}-{part}", _Killer(number, at)


def _counted(root: Path, url: str) -> list[tuple[str, int]]:
    """Let an update run to its end in a child; return what its observer heard."""
    reading, writing = os.pipe()

    def run() -> None:
        counter = _Counter()
        try:
            update_root(root, url, counter.observe)
        finally:
            counter.observe("end")
            os.write(writing, json.dumps(counter.words).encode())

    child = _forked(run, may_fail=True)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        heard = json.loads(pipe.read())
    os.waitpid(child, 0)
    return [(word, calls) for word, calls in heard if word != "end"]


def _forked(run: Callable[[], object], *, may_fail: bool = False) -> int:
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException:
            if not may_fail:
                sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child


if __name__ == "__main__":
    killing_update(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
