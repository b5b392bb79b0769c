"""The harness finds what it must find: each protocol here is wrong, and each is caught.

A green crash test means nothing unless the same test goes red for a device that cheats.
"""

import os
from pathlib import Path
from random import Random
from unittest import mock

import pytest

from pfm_edge_runtime.erasure import replace_erasing
from pfm_edge_runtime.forgetting import prepare_forget
from tests.support.crash_disk import crash_points
from tests.support.crash_scenarios import SCENARIOS, class_id
from tests.support.disk_events import Recording
from tests.support.power_loss import Lab, without
from tests.support.recorded_disk import recorded


def _violations(lab: Lab, recording: Recording) -> str:
    points = crash_points(recording)
    chosen = Random(0).sample(points, min(len(points), 200))
    return "\n".join(lab.examine(recording, chosen).violations)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab", SCENARIOS["forget"])


def test_a_device_whose_fsync_does_nothing(lab: Lab) -> None:
    root = lab.copy()
    with recorded(root) as recording, mock.patch.object(os, "fsync", return_value=None):
        lab.scenario.run(root)
    assert [step for step in recording.steps if step.call == "fsync"] == []
    found = _violations(lab, recording)
    assert "rose is gone without a tombstone" in found  # the bundle was quicker than the ledger
    assert "lie where no name leads to" in found
    assert "VerificationError" in found
    assert "BundleFormatError" in found  # a name without its bytes


def test_a_device_that_writes_the_tombstone_last(lab: Lab) -> None:
    root = lab.copy()
    with (
        recorded(root) as recording,
        prepare_forget(root / "model", [class_id("rose")], state=root / "state") as pending,
    ):
        replace_erasing(pending.files.bundle_path, pending.remaining.to_bytes())
        pending.commit()
        pending.erase()
    assert "rose is gone without a tombstone" in _violations(lab, recording)


def test_a_device_that_renames_before_the_new_file_is_synced(lab: Lab) -> None:
    recording = lab.record()
    calls = [(step.call, step.path.endswith(".tmp")) for step in recording.steps]
    synced, renamed = calls.index(("fsync", True)), calls.index(("rename", False))
    steps = [*recording.steps]
    steps.insert(renamed, steps.pop(synced))
    assert "BundleFormatError" in _violations(lab, Recording(recording.start, steps))


def test_a_device_that_keeps_its_records_in_memory(lab: Lab) -> None:
    recording = lab.record()
    lazy = without(recording, lambda _, step: str(step) == "fsync state/ledger.jsonl")
    found = _violations(lab, lazy)
    assert "a record that was said to be durable is gone" in found
    assert "rose is back" in found


def test_each_sync_of_a_forget_is_needed(lab: Lab) -> None:
    recording = lab.record()
    needless = []
    for number, step in enumerate(recording.steps):
        if step.call == "fsync":
            lazy = without(recording, lambda at, _, number=number: at == number)
            if not lab.examine(lazy, crash_points(lazy), to_the_end=False).violations:
                needless.append(number)
    *_, unlinked = (n for n, step in enumerate(recording.steps) if step.call == "unlink")
    assert needless == [
        0,  # the ledger is confirmed before it is acted upon: needed after a kill, see below
        unlinked + 1,  # a file full of zeros may come back, and goes at the next open
    ]


@pytest.mark.parametrize(
    ("name", "call", "unconfirmed", "found"),
    [
        ("forget", "write", "state/ledger.jsonl", "rose is gone without a tombstone"),
        ("install", "rename", "model", "is older than what this device had"),
    ],
)
def test_a_device_that_trusts_what_a_killed_process_left(
    name: str, call: str, unconfirmed: str, found: str, tmp_path: Path
) -> None:
    lab = Lab(tmp_path / "lab", SCENARIOS[name])
    recording = lab.record()
    killed = next(n for n, step in enumerate(recording.steps, start=1) if step.call == call)
    both = lab.record_killed(recording, killed)

    first = next(n for n, step in enumerate(both.steps) if n >= killed and step.path == unconfirmed)
    assert both.steps[first].call == "fsync"
    credulous = without(both, lambda number, _: number == first)
    report = lab.examine(credulous, crash_points(credulous), complete=False)
    assert found in "\n".join(report.violations)
