"""The power goes at any moment, with any part of what was not synced: the device is always right.

Every distinct disk that this may leave is made real, opened, finished and judged
(:mod:`tests.support.crash_judge` has the rules).
"""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest

from tests.support.crash_disk import CrashDisk, crash_points
from tests.support.crash_scenarios import SCENARIOS
from tests.support.device_disk import ERASED, KEPT, LEDGER, REFUSED, ledger_records
from tests.support.power_loss import Lab

_LEAST_POINTS = 150


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_loss(name: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", SCENARIOS[name])
    recording = lab.record()
    report = lab.examine(recording, crash_points(recording))
    assert report.violations == []
    if SCENARIOS[name].forgotten:  # and all three states were there to be found
        assert report.states.keys() == {(KEPT, KEPT), (REFUSED, ERASED), (ERASED, ERASED)}


def test_the_points_of_a_forget_are_many_and_distinct(tmp_path: Path) -> None:
    found: set[bytes] = set()
    for name, scenario in SCENARIOS.items():
        if scenario.forgotten:
            recording = Lab(tmp_path / name, scenario).record()
            found |= {point.image.fingerprint() for point in crash_points(recording)}
    assert len(found) >= _LEAST_POINTS


def test_a_disk_without_hard_links_loses_nothing_but_the_claim(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", SCENARIOS["forget"])
    with mock.patch.object(os, "link", side_effect=PermissionError(errno.EPERM, "no hard links")):
        recording = lab.record()
        report = lab.examine(recording, crash_points(recording))
    # FAT: the old file cannot be kept for being overwritten, so nobody may say that it was.
    assert {each.rpartition(": ")[2] for each in report.violations} == {
        "the bytes of rose lie where no name leads to"
    }
    replayed = CrashDisk(recording.start)
    for step in recording.steps:
        replayed.apply(step.event)
    ledger = replayed.in_memory().contents()[LEDGER] or b""
    assert ledger_records(ledger)[-1]["record"]["old_bytes"]["method"] == "unlinked"
