"""A process that forgets a class of a run and is killed, once after each call that changes a disk.

    python -m tests.support.killed_forget SOURCE TARGET CLASS_ID

SOURCE holds `run` and `model`; each death leaves a copy of it below TARGET, named after the call.
Each is a child of its own and dies of SIGKILL; starting Python that often would take minutes.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from unittest import mock

from pfm_edge.erasing import forget_in_run
from pfm_edge_runtime.bundle import ClassId

CALLS = ("write", "pwrite", "fsync", "link", "replace", "rename", "unlink", "mkdir", "ftruncate")


def copied(source: Path, target: Path) -> Path:
    """Copy run and package, and let the registry know where the package is now."""
    shutil.copytree(source, target)
    registry = target / "run" / "classes.json"
    registry.write_text(registry.read_text().replace(f"{source}/", f"{target}/"))
    return target / "run"


def _killing_after(number: int) -> dict[str, Callable[..., object]]:
    done = count(1)

    def wrapped(call: str) -> Callable[..., object]:
        real = getattr(os, call)

        def killing(*args: object, **kwargs: object) -> object:
            result = real(*args, **kwargs)
            if next(done) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return killing

    return {call: wrapped(call) for call in CALLS}


def main() -> None:
    source, target, class_id = Path(sys.argv[1]), Path(sys.argv[2]), ClassId(sys.argv[3])
    for number in count(1):
        run = copied(source, target / f"{number:03d}")
        child = os.fork()
        if not child:
            with mock.patch.multiple(os, **_killing_after(number)):
                forget_in_run(run, [class_id])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
