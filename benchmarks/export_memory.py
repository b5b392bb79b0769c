"""What an export of a ViT-B needs of memory, above a process that has imported everything.

A run of one step makes a checkpoint of a ViT-B/16 at 224 pixels with random weights. A child
process imports what an export imports, exports that run as `pfm-edge export` does, and says how
much memory each stage has had at most. The kernel keeps that maximum (`VmHWM`), so a short peak is
not missed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_MODEL = "vit_base_patch16_224"
_CONFIG = """
data: {{name: digits, test_fraction: 0.01}}
backbone: {{model: {model}}}
attention: {attention}
adaptation: {{kind: lora}}
training: {{epochs: 1, batch_size: 2, max_steps: 1, device: cpu}}
"""
_CHILD = """
import json, sys, time
from pathlib import Path

def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            Path("/proc/self/clear_refs").write_text("5")  # from here on, the next peak counts
            return 1024 * int(line.split()[1])

import onnxruntime, onnxscript, torch
from pfm_edge.publishing import export_run
from pfm_edge.training import Run

torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(3, 2),))  # has imports of its own
imported, stages = peak(), []
begin = time.perf_counter()
run = Run.open(Path("run"))
exported = export_run(run, Path("model"), progress=lambda stage: stages.append((stage, peak())))
stages.append(("done", peak()))
size = Path("model/backbone.onnx").stat().st_size
seconds = time.perf_counter() - begin
json.dump({"imported": imported, "size": size, "stages": stages, "seconds": seconds}, sys.stdout)
"""


def run() -> str:
    """Measure; returns a section of Markdown."""
    rows = []
    for attention in ("prefix", "joint"):
        found = _measured(attention)
        names = [name for name, _ in found["stages"]]
        peaks = [(peak - found["imported"]) / found["size"] for _, peak in found["stages"][1:]]
        stages = ", ".join(f"{name} {peak:.2f}" for name, peak in zip(names, peaks, strict=False))
        rows.append(
            f"| {attention} | {found['imported'] / 1e6:.0f} MB | {found['size'] / 1e6:.0f} MB "
            f"| {max(peaks):.2f} | {found['seconds']:.0f} s | {stages} |"
        )
    return (
        "## Memory of an export (`python -m benchmarks export_memory`)\n\n"
        f"{_MODEL}, LoRA, float32, a whole package. Peaks are above the imported process, in "
        "multiples of the weights.\n\n"
        "| attention | imports | weights | peak / weights | time | by stage |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _measured(attention: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vit_b.yaml").write_text(
            _CONFIG.format(model=_MODEL, attention=attention), encoding="utf-8"
        )
        train = ["-m", "pfm_edge", "train", "vit_b.yaml", "--out", "run", "--json"]
        _python(train, folder)
        found: dict[str, Any] = json.loads(_python(["-c", _CHILD], folder))
    return found


def _python(arguments: list[str], folder: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout
