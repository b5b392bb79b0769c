"""`make bench`: measure everything and write docs/results.md.

python -m benchmarks                  # all
python -m benchmarks prompt_overhead  # one; docs/results.md is left alone
"""

import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks import (
    bundle_open,
    export_memory,
    forget,
    import_time,
    ledger_open,
    ota_fleet,
    ota_wire,
    precision,
    prompt_overhead,
)

BENCHMARKS: dict[str, Callable[[], str]] = {
    "prompt_overhead": prompt_overhead.run,
    "import_time": import_time.run,
    "bundle_open": bundle_open.run,
    "ledger_open": ledger_open.run,
    "forget": forget.run,
    "export_memory": export_memory.run,
    "ota_wire": ota_wire.run,
    "ota_fleet": ota_fleet.run,
    "precision": precision.run,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; returns an exit code."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"unknown benchmark {unknown[0]}; one of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    sections = []
    for name in names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr)
        sections.append(BENCHMARKS[name]())
        print(sections[-1])
    if not names:
        Path("docs/results.md").write_text(_header() + "\n".join(sections), encoding="utf-8")
    return 0


def _header() -> str:
    return (
        "# Results\n\n"
        "Written by `make bench`. Absolute times depend on the machine and on what else it does; "
        "ratios are medians of pairs measured next to each other in one process.\n\n"
        f"Machine: {_processor()}. Python {platform.python_version()}, "
        f"ONNX Runtime {version('onnxruntime')}, PyTorch {version('torch')}, "
        f"timm {version('timm')}.\n\n"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
