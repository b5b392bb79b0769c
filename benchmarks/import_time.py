"""What `import pfm_edge_runtime` costs a device, beside Python's own start."""

import statistics
import subprocess
import sys
from time import perf_counter

_ROUNDS = 15


def run() -> str:
    """Measure; returns a section of Markdown."""
    codes = {
        "python alone": "pass",
        "with numpy": "import numpy",
        "with pfm_edge_runtime": "import pfm_edge_runtime",
    }
    seconds: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(_ROUNDS):
        for name, code in codes.items():
            started = perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds[name].append(perf_counter() - started)
    alone = statistics.median(seconds["python alone"])
    rows = [
        f"| {name} | {1e3 * statistics.median(values):.0f} | "
        f"{1e3 * (statistics.median(values) - alone):.0f} |"
        for name, values in seconds.items()
    ]
    return (
        "## Import time (`python -m benchmarks import_time`)\n\n"
        f"Whole processes, median of {_ROUNDS} interleaved rounds.\n\n"
        "| process | ms | ms above Python alone |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
