"""A device, played by another process in which PyTorch cannot be imported.

With an interpreter of its own (`make demo` gives it a virtual environment that holds the runtime
alone) torch is not there; with this one, the toolchain's modules are blocked before the runtime is
imported. Either way the device proves it before it does anything.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm_edge.errors import RunError

__all__ = ["DeviceProcess", "ForgetOutcome", "Predictions"]

_TOOLCHAIN = ("torch", "timm", "onnx", "onnxscript", "pydantic", "typer", "safetensors", "sklearn")
_BLOCK = f"import sys; sys.modules.update(dict.fromkeys({_TOOLCHAIN!r})); "
_MAIN = "import sys; from pfm_edge_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
_PROBE = (
    "import importlib\n"
    f"for name in {_TOOLCHAIN!r}:\n"
    "    try:\n        importlib.import_module(name)\n"
    "    except ImportError:\n        continue\n"
    "    raise SystemExit(f'{name} can be imported')\n"
)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the device said of each image, in the order asked."""

    class_ids: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ForgetOutcome:
    """What the device reported of a forget.

    Attributes:
        milliseconds: until all of it was durable.
        bytes_before: the bundle's size before.
        bytes_after: and after.
        receipt: the device's signed statement, the JSON text of a DSSE envelope.
    """

    milliseconds: float
    bytes_before: int
    bytes_after: int
    receipt: str


class DeviceProcess:
    """Runs `pfm-device` commands on one model package, each in a new torch-free process."""

    def __init__(self, package: Path, state: Path, interpreter: Path | None = None) -> None:
        self._package = package
        self._state = state
        self._python = str(interpreter or sys.executable)
        self._prelude = "" if interpreter else _BLOCK

    def prove_torch_free(self) -> None:
        """Check that no module of the toolchain can be imported where the device runs.

        Raises:
            RunError: one can; names it.
        """
        self._python_code(self._prelude + "\n" + _PROBE, ())

    def trust(self, issuer: Path) -> None:
        """Make the device's memory, and say whose bundles it may use."""
        self._run("init", "--key", str(issuer), "--state", str(self._state))

    def classes(self) -> dict[str, str]:
        """List the classes: label by class id."""
        rows = self._json("classes")["classes"]
        return {row["class_id"]: row["label"] for row in rows}

    def predict(self, images: Sequence[Path]) -> Predictions:
        """Classify image files, all of one folder (a list could be too long for a command)."""
        paths = [str(path) for path in images]
        (folder,) = {str(path.parent) for path in images}
        rows = self._json("predict", folder)["predictions"]
        by_image = {row["image"]: row for row in rows}
        ordered = [by_image[path] for path in paths]
        return Predictions(
            class_ids=tuple(row["class_id"] for row in ordered),
            scores=tuple(float(row["score"]) for row in ordered),
        )

    def forget(self, class_id: str) -> ForgetOutcome:
        """Forget a class for good."""
        outcome = self._json("forget", class_id)
        return ForgetOutcome(
            milliseconds=1e3 * outcome["seconds"],
            bytes_before=outcome["bytes_before"],
            bytes_after=outcome["bytes_after"],
            receipt=self._run("receipts", "show", class_id, "--state", str(self._state)),
        )

    def verify_receipt(self, receipt: Path) -> str:
        """Verify a receipt with the device's public key; returns what the command says."""
        public = self._state / "device.pub"
        return self._run("receipts", "verify", str(receipt), "--key", str(public)).strip()

    def _json(self, command: str, *arguments: str) -> Any:
        strict = ("--state", str(self._state), "--require-state", "--json")
        return json.loads(self._run(command, str(self._package), *arguments, *strict))

    def _run(self, *arguments: str) -> str:
        return self._python_code(self._prelude + _MAIN, arguments)

    def _python_code(self, code: str, arguments: Sequence[str]) -> str:
        command = [self._python, "-c", code, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise RunError(f"{self._python}: cannot be started ({error.strerror})") from error
        if done.returncode != 0:
            reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise RunError(f"the device's process failed: {reason[-1]}")
        return done.stdout
