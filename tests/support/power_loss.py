"""Cutting the power at every moment of an operation, and judging every disk that this may leave.

Owns the loop that the crash tests share::

    lab = Lab(tmp_path, SCENARIOS["forget"])
    recording = lab.record()
    report = lab.examine(recording, crash_points(recording))
    assert not report.violations
    report.states                    # Counter({("refused", "erased"): 31, …})
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.crash_disk import CrashDisk, Image, Point
from tests.support.crash_judge import Judge, Verdict
from tests.support.crash_scenarios import Scenario, open_root
from tests.support.device_disk import LEDGER, Record, ledger_records
from tests.support.disk_events import Entries, Recording, Step
from tests.support.recorded_disk import recorded


@dataclass(slots=True)
class Report:
    """What an examination found.

    Attributes:
        violations: What must not be, each with the power loss that showed it.
        states: How often each state before the open led to which after it.
    """

    violations: list[str] = field(default_factory=list)
    states: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, verdict: Verdict, how: str) -> None:
        self.violations += [f"{how}: {each}" for each in verdict.violations]
        self.states.update((verdict.before[label], verdict.after[label]) for label in verdict.after)

    def merge(self, other: "Report") -> None:
        self.violations += other.violations
        self.states.update(other.states)


class Lab:
    """One scenario's disks, in a directory of their own."""

    def __init__(self, workplace: Path, scenario: Scenario) -> None:
        self.scenario = scenario
        self.prepared = workplace / "prepared"
        self.prepared.mkdir(parents=True)
        scenario.prepare(self.prepared)
        self.judge = Judge(scenario, self.prepared)
        self._workplace = workplace
        self._count = 0

    def copy(self) -> Path:
        """Return a copy of the disk as it was before the operation."""
        root = self._fresh()
        shutil.copytree(self.prepared, root, dirs_exist_ok=True)
        return root

    def materialise(self, image: Image) -> Path:
        """Return a directory that is this image."""
        root = self._fresh()
        image.write_to(root)
        return root

    def record(self) -> Recording:
        """Let the operation run once, undisturbed."""
        with recorded(self.copy()) as recording:
            self.scenario.run(self._last())
        return recording

    def record_recovery(self, point: Point) -> Recording:
        """Let a device open its model on what a power loss left."""
        with recorded(self.materialise(point.image)) as recording:
            open_root(self._last())
        return recording

    def record_killed(
        self,
        recording: Recording,
        steps: int,
        then: Callable[[Path], object] = open_root,
    ) -> Recording:
        """Kill the operation after so many steps, and let another process do something at once.

        The power stayed on, so what was not synced is still in the page cache, and not yet on the
        disk: the recording that comes back is of both processes.
        """
        disk = CrashDisk(recording.start)
        for step in recording.steps[:steps]:
            disk.apply(step.event)
        tree = disk.in_memory()
        root = self.materialise(Image(tree, ()))
        with recorded(root, known=tree) as second:
            then(root)
        start = replace(recording.start, modes=recording.start.modes | second.start.modes)
        return Recording(start, recording.steps[:steps] + second.steps)

    def examine(
        self,
        recording: Recording,
        points: Iterable[Point],
        *,
        complete: bool = True,
        to_the_end: bool = True,
    ) -> Report:
        """Judge every point.

        Args:
            recording: Where the points come from.
            points: Of :func:`tests.support.crash_disk.crash_points`.
            complete: Whether the operation is done when the recording ends.
            to_the_end: Whether to go on after the first violation.
        """
        report, acknowledged = Report(), _acknowledged(recording)
        for point in points:
            root = self.materialise(point.image)
            verdict = self.judge(
                root,
                acknowledged=acknowledged[point.steps],
                done=complete and point.steps == len(recording.steps),
                remains=point.image.remains,
            )
            report.add(verdict, point.how)
            shutil.rmtree(root)
            if report.violations and not to_the_end:
                break
        return report

    def _fresh(self) -> Path:
        self._count += 1
        self._last().mkdir()
        return self._last()

    def _last(self) -> Path:
        return self._workplace / f"disk-{self._count}"


def _acknowledged(recording: Recording) -> list[tuple[Record, ...]]:
    """Return, after each step, the records that were said to be durable: their fsync returned."""
    disk = CrashDisk(recording.start)
    found: list[tuple[Record, ...]] = [()]
    for step in recording.steps:
        disk.apply(step.event)
        found.append(found[-1])
        if (step.call, step.path) == ("fsync", LEDGER):
            found[-1] = ledger_records(disk.in_memory().contents()[LEDGER] or b"")
    return found


def without(recording: Recording, lost: Callable[[int, Step], bool]) -> Recording:
    """Return the recording of a device whose chosen calls do nothing, and say that they did."""
    steps = [
        replace(step, event=Entries(())) if lost(number, step) else step
        for number, step in enumerate(recording.steps)
    ]
    return Recording(recording.start, steps)
