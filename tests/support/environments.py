"""Virtual environments that lack what must not be needed, made once and kept under .cache/.

An environment is named after what was asked for (interpreter, requirements) and, behind a dash,
what went into it (pins, the runtime's sources), so a change makes a new one, in the place of the
old: each holds hundreds of megabytes. A failure to install fails the test: it is what a user would
meet.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "environments"
RUNTIME = f"{ROOT / 'runtime'}[images,onnxruntime]"


def environment(
    requirements: Sequence[str], interpreter: str = sys.executable, *, constraints: bool = True
) -> Path:
    """Return the Python of an environment that holds `requirements` and nothing else of ours."""
    tested = ROOT / "requirements" / "tested.txt"
    asked = hashlib.sha256(repr((interpreter, *requirements, constraints)).encode())
    contents = hashlib.sha256()
    sources = [*sorted((ROOT / "runtime" / "pfm_edge_runtime").rglob("*.py"))]
    for path in [ROOT / "runtime" / "pyproject.toml", tested, *sources]:
        contents.update(path.read_bytes())
    name = asked.hexdigest()[:16]
    folder = CACHE / f"{name}-{contents.hexdigest()[:16]}"
    python = folder / "bin" / "python"
    with _alone():
        if not (folder / "complete").exists():
            for former in CACHE.glob(f"{name}-*"):
                shutil.rmtree(former)
            run([interpreter, "-m", "venv", str(folder)])
            arguments = ["-c", str(tested)] if constraints else []
            run([str(python), "-m", "pip", "install", "--quiet", *arguments, *requirements])
            (folder / "complete").touch()
    return python


@contextmanager
def _alone() -> Iterator[None]:
    """Let one test process at a time make environments: pip builds in the runtime's folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command: Sequence[str], **options: object) -> str:
    """Run a command; its output is returned, or shown where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command} exited with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def other_python(version: str) -> str | None:
    """Find another Python, such as "3.10": on the path, or as pyenv keeps them."""
    found = shutil.which(f"python{version}")
    if found and _works(found):
        return found
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return str(kept[-1]) if kept else None


def _works(python: str) -> bool:
    return subprocess.run([python, "-c", "pass"], capture_output=True, check=False).returncode == 0
