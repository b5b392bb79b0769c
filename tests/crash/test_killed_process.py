"""A real process, really killed: after each of its calls, within each write, and at random."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.crash_scenarios import SCENARIOS
from tests.support.power_loss import Lab, Report


@pytest.mark.parametrize("name", ["first use", "forget two", "install", "open an old copy"])
def test_whatever_a_kill_leaves_is_put_in_order(name: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", SCENARIOS[name])
    killed = tmp_path / "killed"
    killed.mkdir()
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.crash_process", "kill", name, lab.prepared, killed],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    report = Report()
    for root in sorted(killed.iterdir()):
        report.add(lab.judge(root, done=root.name == "complete"), root.name)
    assert report.violations == []
    names = {path.name.partition("-")[0] for path in killed.iterdir()}
    assert names == {"after", "within", "outside", "complete"}
