"""Interrupted twice: what puts a device in order may itself be cut short, at any point.

By default a sample is judged; ``PFM_EDGE_EVERY_CRASH=1`` judges every point (minutes).
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from pfm_edge_runtime.receipts import make_receipt, verify_receipt
from pfm_edge_runtime.state import DeviceState
from tests.support.crash_disk import Point, crash_points
from tests.support.crash_scenarios import SCENARIOS, class_id
from tests.support.device_disk import LEDGER, ledger_records
from tests.support.disk_events import Recording
from tests.support.power_loss import Lab, Report

_EVERY = os.environ.get("PFM_EDGE_EVERY_CRASH") == "1"
_SAMPLE = 60
_RANDOM_NAME = re.compile(r"[0-9a-f]{16}")


def _judge(
    lab: Lab, recordings: Iterable[tuple[Recording, int]], known: Iterable[Point]
) -> tuple[Report, int]:
    """Judge the points of each recording from a step on that were not met before."""
    seen = {point.image.fingerprint() for point in known}
    found: list[tuple[Recording, Point]] = []
    for recording, begin in recordings:
        for point in crash_points(recording):
            fingerprint = point.image.fingerprint()
            if point.steps >= begin and fingerprint not in seen:
                seen.add(fingerprint)
                found.append((recording, point))
    chosen = found if _EVERY else Random(0).sample(found, min(_SAMPLE, len(found)))
    report = Report()
    for recording, point in chosen:
        report.merge(lab.examine(recording, [point], complete=False))
    return report, len(found)


def _shape(recording: Recording) -> tuple[str, ...]:
    return tuple(_RANDOM_NAME.sub("*", str(step)) for step in recording.steps)


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_loss_while_the_last_one_is_made_good(name: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", SCENARIOS[name])
    points = crash_points(lab.record())
    recoveries: dict[object, Recording] = {}
    for number, point in enumerate(points):
        recovery = lab.record_recovery(point)
        # Disks that are put in order by the same calls differ in bytes that are not looked at.
        recoveries[number if _EVERY else _shape(recovery)] = recovery
    report, found = _judge(lab, ((each, 0) for each in recoveries.values()), points)
    assert report.violations == []
    assert found


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_loss_after_a_kill_and_a_new_start(name: str, tmp_path: Path) -> None:
    # What the killed process did not sync is in memory only, and the next one must not trust it.
    lab = Lab(tmp_path / "lab", SCENARIOS[name])
    recording = lab.record()
    killed = [(lab.record_killed(recording, n), n) for n in range(len(recording.steps) + 1)]
    report, found = _judge(lab, killed, crash_points(recording))
    assert report.violations == []
    assert found


def test_a_receipt_is_of_a_record_that_stays(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", SCENARIOS["forget"])
    recording = lab.record()
    written = max(n for n, step in enumerate(recording.steps, 1) if step.call == "write")
    receipts = []

    def show(root: Path) -> None:
        state = DeviceState.open(root / "state")
        record = state.memory.erased(class_id("rose"))
        assert record is not None
        receipts.append(verify_receipt(make_receipt(record, state), state.public_key).record)

    both = lab.record_killed(recording, written, show)
    for point in crash_points(both):
        if point.steps == len(both.steps):
            records = ledger_records(point.image.tree.contents()[LEDGER] or b"")
            assert records[-1]["sha256"] == receipts[0].digest
