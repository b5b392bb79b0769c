"""Verify every architecture on every target that this machine has, and write docs/targets.md.

python -m benchmarks.targets_table            # all, and the page: six minutes of one core
python -m benchmarks.targets_table "DINOv3"   # one; the page is left alone

What is outside its limit is printed and fails the command: nothing wrong gets onto the page.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from pfm_edge.model import NAMES, WHY_NOT, AttentionKind, PromptedViT
from pfm_edge_exporters import OnnxFromTorch
from tests.support.architectures import ARCHITECTURES, Architecture
from tests.support.exported import (
    OLDEST,
    adapter_difference,
    build_engine,
    differences_on_oldest,
    exported,
    half_cosine,
    inside_difference,
    parity,
    source_of,
    static_difference,
)

__all__ = ["PAGE", "main"]

PAGE = Path(__file__).parents[1] / "docs" / "targets.md"
_BOTH: tuple[AttentionKind, ...] = ("joint", "prefix")
_TOLERANCE = 1e-4  # absolute, of logits and embedding
_TIMM_TOLERANCE = 1e-5
_LEAST_COSINE = 0.9999
_LEAST_MOVED = 1e-2

_COLUMNS = (
    "architecture",
    "attention",
    "timm",
    "onnx",
    "moved",
    "static",
    "fp16",
    OLDEST,
    "tensorrt-rtx",
    "triton",
    "ort-adapter",
)
_PAGE = """# Targets

Written by `python -m benchmarks.targets_table`, which measured every figure below and writes
nothing while one is outside its limit. What each target takes: `pfm-edge export --list-targets`.

Measured with {versions}.

## Architectures

A backbone is any model of timm that one of three block adapters runs: `VisionTransformer` (class
token or none, registers, average or attention pooling, layer scale, SwiGLU, normalised queries and
keys), `Eva` (rotary positions, query, key and value in one projection or three) and models with a
bias on the scores (`Beit`, `VisionTransformerRelPos`). LoRA adapts query and value of all of them;
distilled models give the mean of their two tokens, as timm does.

By name: {names}.

| name here | model of timm | what it is in the list for |
|---|---|---|
{architectures}

What no adapter runs is refused by name, before anything is trained:

| type in timm | why not |
|---|---|
{refused}

## What was verified

Two layers, 32 x 32 pixels, random weights with nothing inert in them. In each test run all of
these are compared with timm, fourteen are exported, compared and built as here, and one of each
adapter at twelve layers.

- **timm**: largest difference from timm's own `forward_features` and `forward_head`, without
  prompts and with attention written out; at most 1e-5.
- **onnx**: largest difference of `backbone.onnx` from torch over batch {{1, 2, 5}} x classes
  {{1, 2, 7, 100}}, at most 1e-4; a second export gave the same bytes.
- **moved**: how far dropping one class of two moves the embedding; at least 1e-2, or the parity
  would be blind.
- **static**: largest difference with room for eight classes, five of them padding.
- **fp16**: least cosine to float32, both by `onnx.reference`; at least 0.9999. No normalisation or
  softmax, and no score, is in half precision.
- **{oldest}**: largest difference from torch on ONNX Runtime {oldest}, JetPack 6's generation.
- **tensorrt-rtx**: layers of the engine that its builder made for compute capability 8.6, batch
  1 to 8 and classes 1 to 128. `tensorrt` is built by the same code; no GPU was here to run either.
- **triton**: largest difference with the classes inside the graph, as a repository serves it.
- **ort-adapter**: largest difference with the classes through `onnxruntime.LoraAdapter`.

{table}
"""


@dataclass(frozen=True, slots=True)
class _Row:
    """What was measured of one architecture with one attention variant."""

    architecture: str
    attention: str
    timm: float
    onnx: float
    moved: float
    static: float
    half: float
    oldest: float
    layers: int
    triton: float
    adapter: float

    def broken(self) -> list[str]:
        """Name what is outside its limit."""
        small = ("onnx", "static", "oldest", "triton", "adapter")
        named = [name for name in small if not getattr(self, name) <= _TOLERANCE]
        kept = {
            "timm": self.timm <= _TIMM_TOLERANCE,
            "moved": self.moved > _LEAST_MOVED,
            "half": self.half >= _LEAST_COSINE,
        }
        return named + [name for name, good in kept.items() if not good]

    def as_markdown(self) -> str:
        """Return one line of the table."""
        figures = (
            f"{self.timm:.0e}",
            f"{self.onnx:.1e}",
            f"{self.moved:.2f}",
            f"{self.static:.1e}",
            f"{self.half:.6f}",
            f"{self.oldest:.1e}",
            f"{self.layers} layers",
            f"{self.triton:.1e}",
            f"{self.adapter:.1e}",
        )
        return _line((self.architecture, self.attention, *figures))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(names: Sequence[str]) -> int:
    """Verify the named architectures, or all and write the page; returns an exit code."""
    torch.set_num_threads(1)
    cases = [case for case in ARCHITECTURES if not names or case.name in names]
    unknown = sorted(set(names) - {case.name for case in cases})
    if unknown:
        known = ", ".join(case.name for case in ARCHITECTURES)
        print(f"unknown architecture {unknown[0]!r}; one of: {known}", file=sys.stderr)
        return 2
    rows = _measured(cases)
    broken = {f"{row.architecture}, {row.attention}": row.broken() for row in rows if row.broken()}
    for row in rows:
        print(row.as_markdown())
    for name, limits in broken.items():
        print(f"{name}: outside the limit: {', '.join(limits)}", file=sys.stderr)
    if not names and not broken:
        PAGE.write_text(_page(rows), encoding="utf-8")
    return 1 if broken else 0


def _measured(cases: Sequence[Architecture]) -> list[_Row]:
    with tempfile.TemporaryDirectory() as folder:
        models = [exported(case, attention) for case in cases for attention in _BOTH]
        oldest = differences_on_oldest(models, Path(folder))
    return [_measure(case, attention, oldest) for case in cases for attention in _BOTH]


def _measure(case: Architecture, attention: AttentionKind, oldest: dict[str, float]) -> _Row:
    model = exported(case, attention)
    print(f"{model.name} ...", file=sys.stderr)
    if OnnxFromTorch().export(source_of(case, attention)) != model.graph:
        raise SystemExit(f"{model.name}: a second export gave other bytes")
    report = parity(model)
    with tempfile.TemporaryDirectory() as folder:
        adapter = adapter_difference(model, Path(folder))
    return _Row(
        architecture=case.name,
        attention=attention,
        timm=_difference_from_timm(case, attention),
        onnx=report.worst,
        moved=report.sensitivity or 0.0,
        static=static_difference(model),
        half=half_cosine(model),
        oldest=oldest[model.name],
        layers=build_engine(model).layers,
        triton=inside_difference(model),
        adapter=adapter,
    )


@torch.no_grad()
def _difference_from_timm(case: Architecture, attention: AttentionKind) -> float:
    model = PromptedViT(case.backbone(), attention, 1).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    nobody = model.select(model.encode(), torch.empty(0, dtype=torch.int64))
    backbone = model.backbone
    expected = backbone.forward_head(backbone.forward_features(images), pre_logits=True)
    return float((model.embed(images, nobody, fused=False) - expected).abs().max())


def _page(rows: Sequence[_Row]) -> str:
    packages = ("timm", "torch", "onnx", "onnxruntime", "tensorrt-rtx-cu12")
    return _PAGE.format(
        versions=", ".join(f"{name} {version(name)}" for name in packages),
        names=", ".join(f"`{name}`" for name in NAMES),
        architectures="\n".join(
            f"| {case.name} | `{case.model}` | {case.covers} |" for case in ARCHITECTURES
        ),
        refused="\n".join(f"| `{name}` | {reason} |" for name, reason in WHY_NOT.items()),
        oldest=OLDEST,
        table="\n".join(
            [_line(_COLUMNS), "|---" * len(_COLUMNS) + "|", *(row.as_markdown() for row in rows)]
        ),
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main(sys.argv[1:]))
