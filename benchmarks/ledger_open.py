"""Opening a device's memory that remembers ten thousand records."""

import os
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from unittest import mock

from pfm_edge_runtime.bundle import EntryDigest, StatementDigest, new_class_id
from pfm_edge_runtime.erasure import OldBytes
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.state import (
    DeviceState,
    ErasedRecord,
    InstallRecord,
    TombstoneRecord,
)

_RECORDS = 10_000
_ROUNDS = 21
_MODEL = ModelId("sha256:" + "5e" * 32)
_STATEMENT = StatementDigest("a1" * 32)


def run() -> str:
    """Measure; returns a section of Markdown."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "state"
        _remember(DeviceState.create(directory, trust=None, bind=False))
        size = (directory / "ledger.jsonl").stat().st_size
        seconds = []
        for _ in range(_ROUNDS):
            started = perf_counter()
            opened = DeviceState.open(directory)
            seconds.append(perf_counter() - started)
            del opened  # freeing it is not opening it
        state = DeviceState.open(directory)
        looks = []
        for _ in range(1000):
            started = perf_counter()
            state.moved()
            looks.append(perf_counter() - started)
    quartiles = statistics.quantiles(seconds, n=4)
    return (
        "## Opening the ledger (`python -m benchmarks ledger_open`)\n\n"
        f"{state.memory.number:,} records ({size / 1e6:.1f} MB), half tombstones, half `erased`: "
        f"{1e3 * statistics.median(seconds):.1f} ms ({1e3 * quartiles[0]:.1f} to "
        f"{1e3 * quartiles[2]:.1f}), median of {_ROUNDS} (quartiles), from the page cache. To ask "
        "whether it moved, which every prediction does: "
        f"{1e6 * statistics.median(looks):.1f} µs.\n"
    )


def _remember(state: DeviceState) -> None:
    moment = state.moment()
    with mock.patch.object(os, "fsync"), state.exclusive():  # of no interest here
        state.append(
            InstallRecord(
                model_id=_MODEL,
                statement=_STATEMENT,
                epoch=1,
                sequence=1,
                absent=(),
                signers=(),
                moment=moment,
            )
        )
        for number in range((_RECORDS - state.memory.number) // 2):
            about = {
                "class_id": new_class_id(),
                "model_id": _MODEL,
                "statement": _STATEMENT,
                "entry_digest": EntryDigest(f"{number:064x}"),
                "moment": moment,
            }
            (tombstone,) = state.append(TombstoneRecord(**about))
            erased = ErasedRecord(
                **about,
                tombstone=tombstone.number,
                bundle="b2" * 32,
                old_bytes=OldBytes("overwritten", "ext4", in_place=True),
                device=state.device,
                software="pfm-edge-runtime 0.1.0",
            )
            state.append(erased)
