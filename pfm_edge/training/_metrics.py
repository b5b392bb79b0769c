"""The metrics log: JSON lines for scripts, TensorBoard for eyes, the same figures in both.

Kinds: `train` (means over the last steps, which start anew at a resume), `epoch` (held-out figures
after a whole epoch), `stop` (the same where a run stopped within one; gone once it goes on).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from pfm_edge.errors import RunError
from pfm_edge_runtime.store import write_atomic

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends records; on resume, drops those that the checkpoint does not know of."""

    def __init__(self, directory: Path, *, first_step: int) -> None:
        self._path = directory / "metrics.jsonl"
        kept = [
            record
            for record in read_metrics(self._path)
            if record["step"] <= first_step and record["kind"] != "stop"
        ]
        write_atomic(self._path, "".join(json.dumps(r) + "\n" for r in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")
        purge = first_step + 1 if first_step else None
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=purge)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close both logs."""
        self._file.close()
        self._board.close()

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record; numbers among `values` go to TensorBoard as `kind/name`."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics log; a torn last line (power cut) is dropped.

    Raises:
        RunError: another line is damaged; names it.
    """
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}: line {number} is damaged ({error}); remove it") from error
        if not isinstance(record, dict) or not {"kind", "step"} <= set(record):
            raise RunError(f"{path}: line {number} is no metrics record; remove it")
        records.append(record)
    return records
