"""Opening a package on a device: read the bundle, verify it in eleven steps, consult the memory."""

import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks._vit_s_package import write_package
from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.opening import open_model
from pfm_edge_runtime.state import DeviceState

_ROUNDS = 21
_CASES = (("joint", 1000), ("prefix", 1000), ("joint", 10_000), ("prefix", 10_000))


def run() -> str:
    """Measure; returns a section of Markdown."""
    rows = []
    for attention, classes in _CASES:
        with tempfile.TemporaryDirectory() as directory:
            size, seconds = _measure(Path(directory), attention, classes)
        quartiles = statistics.quantiles(seconds, n=4)
        rows.append(
            f"| {attention} | {classes:,} | {size / 1e6:.1f} | "
            f"{1e3 * statistics.median(seconds):.1f} "
            f"({1e3 * quartiles[0]:.1f} to {1e3 * quartiles[2]:.1f}) |"
        )
    return (
        "## Opening a bundle (`python -m benchmarks bundle_open`)\n\n"
        "ViT-S class tensors, signed, on a device that was told whom to trust: manifest, ledger, "
        "bundle from the page cache, eleven steps; without the digest of the graph. "
        f"Median of {_ROUNDS} (quartiles).\n\n"
        "| attention | classes | MB | ms |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _measure(directory: Path, attention: str, classes: int) -> tuple[int, list[float]]:
    key = SigningKey.generate()
    size = write_package(directory / "model", attention, classes=classes, key=key)
    trust = TrustedKeys(1, frozenset({key.public}))
    DeviceState.create(directory / "state", trust=trust, bind=False)
    seconds = []
    for _ in range(_ROUNDS + 1):  # the first one records the install
        started = perf_counter()
        open_model(
            directory / "model", state=directory / "state", require_state=True, verify_files=False
        )
        seconds.append(perf_counter() - started)
    return size, seconds[1:]
