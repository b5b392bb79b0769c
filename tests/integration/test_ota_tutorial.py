"""docs/tutorial-ota.md is run as it is but for the port: block after block, in an empty folder."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "tutorial-ota.md"
_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def _a_free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_the_tutorial(tmp_path: Path) -> None:
    text = _PAGE.read_text(encoding="utf-8")
    (port,) = set(re.findall(r"http://127\.0\.0\.1:([0-9]+)", text))
    text = text.replace(port, _a_free_port())  # the page's own may be taken on this machine
    # What it starts ends with it, however it ends.
    script = "\n".join(["set -euo pipefail", "trap 'kill $(jobs -p) || true' EXIT"])
    script += "\n" + "\n".join(_BLOCK.findall(text))
    commands = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for device, other in (("one", "two"), ("two", "one")):
        assert len([*(tmp_path / "receipts" / device).iterdir()]) == 1, other
    assert re.findall(r"(\d) of 2 ", done.stdout)[-1] == "2", done.stdout
    known = [line for line in done.stdout.splitlines() if re.fullmatch(r"[0-9a-f]{32}\t.", line)]
    assert [line[-1] for line in known].count("3") == 1  # before the forget, and never after it
    assert len(known) == 10 + 9 + 9
    page = (tmp_path / "fleet.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "no proof" in page
