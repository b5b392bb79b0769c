"""What an export did, for a person and for JSON.

Owns the values and their words::

    print(report.summary())
    json.dumps(report.as_dict())
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from pfm_edge_exporters._judging import Accuracy, Speed
from pfm_edge_exporters._parity import ParityReport
from pfm_edge_runtime.manifest import ModelId, Variant

__all__ = ["ExportReport", "Progress", "Stages", "VariantReport"]

Progress: TypeAlias = Callable[[str], None]
"""Told the name of each stage as it begins."""


@dataclass(slots=True)
class Stages:
    """Tells of each stage, and how long it took."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Tell that a stage begins, and time it."""
        self.progress(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class VariantReport:
    """One graph of the package.

    Attributes:
        variant: The graph.
        size: Bytes of its file.
        parity: Model and graph, side by side.
        accuracy: What it knows of held-out images; ``None`` where that was not measured.
        speed: How fast it is beside the float32 graph, here; ``None`` as before.
    """

    variant: Variant
    size: int
    parity: ParityReport
    accuracy: Accuracy | None = None
    speed: Speed | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "file": self.variant.file,
            "precision": self.variant.precision,
            "capacity": self.variant.capacity,
            "batch": self.variant.batch,
            "opset": self.variant.opset,
            "size": self.size,
            "parity": self.parity.as_dict(),
            "accuracy": None if self.accuracy is None else self.accuracy.as_dict(),
            "speed": None if self.speed is None else self.speed.as_dict(),
        }

    def summary(self, first_size: int) -> str:
        """Return one line for a person.

        Args:
            first_size: Bytes of the float32 graph.
        """
        words = [f"{self.size / 1e6:.2f} MB, {self.size / first_size:.2f} of float32"]
        if self.parity.tolerance.absolute is None:
            least = min(row.difference.cosine for row in self.parity.rows)
            words.append(f"cosine to the model {least:.6f}")
        else:
            words.append(f"agrees to {self.parity.worst:.1e}")
        words += [str(each) for each in (self.accuracy, self.speed) if each is not None]
        if self.speed is not None and self.speed.is_slower:
            words.append("slower here, and kept by --force")
        return f"{self.variant.file}: {'; '.join(words)}"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: The package.
        model_id: The model in it.
        graphs: Every graph, the float32 one first.
        sizes: Bytes of each file, by name.
        seconds: Duration of each stage, in the order they ran.
        left_out: Graphs that were asked for and are not there, and why, in words.
    """

    path: Path
    model_id: ModelId
    graphs: tuple[VariantReport, ...]
    sizes: Mapping[str, int]
    seconds: Mapping[str, float]
    left_out: tuple[str, ...] = ()

    @property
    def parity(self) -> ParityReport:
        """Model and float32 graph, side by side."""
        return self.graphs[0].parity

    def as_dict(self) -> dict[str, object]:
        """Return the report as values that JSON has."""
        return {
            "path": str(self.path),
            "model_id": self.model_id,
            "parity": self.parity.as_dict(),
            "graphs": [each.as_dict() for each in self.graphs],
            "left_out": list(self.left_out),
            "sizes": dict(self.sizes),
            "seconds": {stage: round(spent, 3) for stage, spent in self.seconds.items()},
        }

    def summary(self) -> str:
        """Return one line for a person."""
        size = sum(self.sizes.values()) / 1e6
        return (
            f"{self.path}: {len(self.sizes)} files, {size:.1f} MB, in "
            f"{sum(self.seconds.values()):.1f} s; model and graph agree to "
            f"{self.parity.worst:.1e} at {len(self.parity.rows)} points"
        )

    def details(self) -> tuple[str, ...]:
        """Return a line for each graph beyond the first, for what is missing, and for a loss."""
        first = self.graphs[0]
        others = [each.summary(first.size) for each in self.graphs[1:]]
        if first.accuracy is not None:
            others.insert(0, first.summary(first.size))
        return (*others, *self.left_out)
