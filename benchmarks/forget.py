"""What a forget costs: on disk, with fsync's share apart; in memory, with the exchange apart."""

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from unittest import mock

from benchmarks._vit_s_package import write_package
from pfm_edge_runtime._layout import ClassLayout
from pfm_edge_runtime._snapshot import Held, Snapshot
from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.opening import OpenModel, open_model
from pfm_edge_runtime.state import DeviceState

_CLASSES = 1000
_FORGETS = 30
_SWAPS = 400


def run() -> str:
    """Measure; returns a section of Markdown."""
    disk, memory = [], []
    for attention in ("joint", "prefix"):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            model = _open(directory, attention)
            disk.append(_durable(directory, model, attention))
            memory.append(_in_memory(open_model(directory / "model", state=model.state), attention))
    return (
        "## Forgetting (`python -m benchmarks forget`)\n\n"
        f"One class of {_CLASSES:,}, ViT-S class tensors. On disk: tombstone, new bundle, old "
        "bytes overwritten, `erased` record, receipt; everything synced. "
        f"Median of {_FORGETS} (99th percentile).\n\n"
        "| attention | durable forget, ms | of it fsync, ms | fsyncs |\n|---|---|---|---|\n"
        + "\n".join(disk)
        + "\n\nIn memory: the exchange of the tensors that calls read, while calls read them. The "
        "new arrays are built before, the old ones zeroed after, neither on a call's way. "
        f"{_SWAPS} exchanges.\n\n"
        "| attention | exchange, 99th percentile, ms | building, median, ms "
        "| zeroing, median, ms |\n|---|---|---|---|\n" + "\n".join(memory) + "\n"
    )


def _open(directory: Path, attention: str) -> OpenModel:
    key = SigningKey.generate()
    write_package(directory / "model", attention, classes=_CLASSES, key=key)
    trust = TrustedKeys(1, frozenset({key.public}))
    state = DeviceState.create(directory / "state", trust=trust, bind=False)
    return open_model(directory / "model", state=state)


def _durable(directory: Path, model: OpenModel, attention: str) -> str:
    totals, synced, counts = [], [], []
    for class_id in model.bundle.class_ids[:_FORGETS]:
        with _timed_fsync() as spent:
            started = perf_counter()
            forget_classes(directory / "model", [class_id], state=directory / "state")
            totals.append(perf_counter() - started)
        synced.append(sum(spent))
        counts.append(len(spent))
    return (
        f"| {attention} | {_median_and_last(totals)} | {_median_and_last(synced)} | "
        f"{statistics.median(counts):.0f} |"
    )


def _in_memory(model: OpenModel, attention: str) -> str:
    layout = ClassLayout(model.files.manifest.class_inputs)
    gone = {model.bundle.class_ids[0]}
    everything = Snapshot.of(model.bundle, layout)
    held = Held(everything.without((), layout))
    exchanges, builds, zeroings = [], [], []
    for _ in range(_SWAPS):
        started = perf_counter()
        fresh = everything.without(gone, layout)
        built = perf_counter()
        with held.use():
            exchanging = perf_counter()
            held.exchange(fresh)
            exchanged = perf_counter()
        zeroings.append(perf_counter() - exchanged)  # the last reader's end
        exchanges.append(exchanged - exchanging)
        builds.append(built - started)
    return (
        f"| {attention} | {1e3 * _last(exchanges):.3f} | "
        f"{1e3 * statistics.median(builds):.1f} | {1e3 * statistics.median(zeroings):.1f} |"
    )


@contextmanager
def _timed_fsync() -> Iterator[list[float]]:
    spent: list[float] = []
    real = os.fsync

    def timed(descriptor: int) -> None:
        started = perf_counter()
        real(descriptor)
        spent.append(perf_counter() - started)

    with mock.patch.object(os, "fsync", timed):
        yield spent


def _median_and_last(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.1f} ({1e3 * _last(seconds):.1f})"


def _last(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[-1]
