"""How far an engine build is, from the nested phases that TensorRT reports.

Owns the arithmetic, with no library: a phase is a number of steps, and one of its steps may be a
phase of its own. The share of the whole that is done never falls::

    monitor = BuildMonitor(lambda done, phase: print(f"{done:.0%} {phase}"))
    monitor.phase_start("Building engine", None, 2)
    monitor.phase_start("Optimizing graph", "Building engine", 4)
    monitor.step_complete("Optimizing graph", 0)        # 12% Optimizing graph

TensorRT calls these methods from C++ that cannot carry a Python exception: whatever is raised in
one, Ctrl-C included, is kept, and asks the builder to stop; ``raise_kept`` raises it afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["BuildMonitor", "BuildProgress"]

BuildProgress: TypeAlias = Callable[[float, str], None]
"""Told the share of the work that is done, 0 to 1, and the name of the phase."""


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildMonitor:
    """The three callbacks of ``IProgressMonitor``.

    Args:
        progress: Told of every step.
    """

    def __init__(self, progress: BuildProgress) -> None:
        self._progress = progress
        self._open: dict[str, _Phase] = {}
        self._told = 0.0
        self._kept: BaseException | None = None

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Begin a phase, as one step of ``parent_phase``."""
        self._open[phase_name] = _Phase(parent_phase, max(1, num_steps))
        self._tell(phase_name)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Note that step number ``step`` is done; return whether to go on."""
        phase = self._open.get(phase_name)
        if phase is not None:
            phase.done = min(step + 1, phase.steps)
            self._tell(phase_name)
        return self._kept is None

    def phase_finish(self, phase_name: str) -> None:
        """End a phase; its parent counts it as a step by itself."""
        self._open.pop(phase_name, None)

    def raise_kept(self) -> None:
        """Raise what was raised in a callback, if anything was."""
        if self._kept is not None:
            raise self._kept

    def _tell(self, name: str) -> None:
        try:
            self._told = max(self._told, self._share(name))
            self._progress(self._told, name)
        except BaseException as error:
            self._kept = self._kept or error

    def _share(self, name: str) -> float:
        """Return what is done of the whole: the phase's steps, as a part of its parent's next."""
        phase, share = self._open[name], 0.0
        for _ in range(len(self._open)):
            share = min(1.0, (phase.done + share) / phase.steps)
            parent = self._open.get(phase.parent or "")
            if parent is None:
                break
            phase = parent
        return share
