"""The recorder misses nothing: what it wrote down is what the system was asked, call for call."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.crash_scenarios import SCENARIOS
from tests.support.disk_events import take_snapshot
from tests.support.system_calls import STRACE, changes_in


def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    # Where containers forbid ptrace, strace is there and of no use.
    return subprocess.run([*STRACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_trace(), reason="strace is missing, or may not trace")
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_recorder_sees_what_strace_sees(name: str, tmp_path: Path) -> None:
    root, trace = tmp_path / "disk", tmp_path / "trace"
    root.mkdir()
    SCENARIOS[name].prepare(root)
    existing = {"."} | take_snapshot(root).paths().keys()
    operation = [sys.executable, "-m", "tests.support.crash_process", "record", name, root]
    process = subprocess.run(
        [*STRACE, "-o", trace, *operation],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    recorded = [tuple(each) for each in json.loads(process.stdout)]
    assert recorded == changes_in(trace.read_text(), root.resolve(), existing)
    assert ("fsync", "state/ledger.jsonl") in recorded
