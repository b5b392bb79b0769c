"""What prompts cost at inference: one backbone, with no prompts, with `prefix`, with `joint`.

Three graphs of one DINOv2 ViT-S/14 at 224 pixels, exported as the product exports them, in one
process on ONNX Runtime's CPU provider. A round runs the bare backbone and every prompted graph next
to each other, in an order that changes from round to round; a ratio is taken within its round, and
the median over rounds is reported. A second session of the bare graph stands beside the others:
what it differs from 1 by is what the method cannot see. Weights are random: time does not depend
on them.
"""

import statistics
from collections.abc import Callable
from time import perf_counter, sleep

import numpy as np
import torch
from torch import Tensor, nn

from pfm_edge.config import BackboneConfig
from pfm_edge.model import AttentionKind, PromptedViT, create_backbone, image_input, preprocessing
from pfm_edge.publishing import deployable_source
from pfm_edge_exporters import OnnxFromTorch, TorchSource
from pfm_edge_runtime.backends import OnnxRuntimeBackend
from pfm_edge_runtime.manifest import ModelId

_THREADS = 2
_ROUNDS = 25
# ONNX Runtime's threads spin for a while after a run, and would take a core from the next session:
# without this pause a second session of the very same graph measures 1.17.
_PAUSE_SECONDS = 0.05
_COUNTS = (10, 100, 1000)
_CONFIG = BackboneConfig(
    model="vit_small_patch14_dinov2.lvd142m", arguments={"img_size": 224, "init_values": 1.0}
)

_Run = Callable[[], object]


class _Bare(nn.Module):
    """The backbone with no prompts and no head: what every overhead is measured against."""

    def __init__(self, model: PromptedViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        specs = self.model.prompt_inputs
        tensors = {spec.name: torch.empty(1, *spec.graph_shape(0)) for spec in specs}
        embedding = self.model.embed(image, tensors, fused=False)
        return embedding.sum(dim=1, keepdim=True), embedding


def run() -> str:
    """Measure; returns a section of Markdown."""
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    bare = _bare_runner(image)
    ratios: dict[tuple[str, int], list[float]] = {}
    runners: dict[tuple[str, int], _Run] = {
        (kind, count): _prompted_runner(kind, count, image)
        for kind in ("prefix", "joint")
        for count in _COUNTS
    }
    bare_seconds: list[float] = []
    order = np.random.default_rng(1)
    runners["bare", 0] = _bare_runner(image)
    for run_once in (bare, *runners.values()):
        run_once()
    for _ in range(_ROUNDS):
        for key in [list(runners)[i] for i in order.permutation(len(runners))]:
            before, prompted, after = _time(bare), _time(runners[key]), _time(bare)
            bare_seconds += [before, after]
            ratios.setdefault(key, []).append(prompted / ((before + after) / 2))
    rows = [
        f"| {count} | "
        + " | ".join(_cell(ratios[kind, count]) for kind in ("prefix", "joint"))
        + " |"
        for count in _COUNTS
    ]
    return (
        "## Cost of prompts (`python -m benchmarks prompt_overhead`)\n\n"
        "DINOv2 ViT-S/14, 224 px, batch 1, float32, ONNX Runtime on CPU, "
        f"{_THREADS} threads: time over the same backbone with no prompts "
        f"({1e3 * statistics.median(bare_seconds):.0f} ms), median of {_ROUNDS} paired ratios "
        f"(quartiles). The same graph in a second session: {_cell(ratios['bare', 0])}.\n\n"
        "| classes | prefix | joint |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _bare_runner(image: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> _Run:
    model = PromptedViT(create_backbone(_CONFIG), "prefix", 1).eval()
    source = TorchSource(
        module=_Bare(model).eval(),
        model_id=ModelId("sha256:" + "0" * 64),
        attention="none",
        image=image_input(model.backbone),
        class_inputs=(),
        preprocessing=preprocessing(_CONFIG, model.backbone),
        synthesize=lambda count, draw: {},  # noqa: ARG005
    )
    backend = OnnxRuntimeBackend(OnnxFromTorch().export(source), threads=_THREADS)
    return lambda: backend.run(image, {})


def _prompted_runner(
    kind: AttentionKind, count: int, image: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"
) -> _Run:
    model = PromptedViT(create_backbone(_CONFIG), kind, 2).eval()
    source = deployable_source(model, _CONFIG)
    backend = OnnxRuntimeBackend(_exported(kind, source), threads=_THREADS)
    tensors = source.synthesize(count, np.random.default_rng(count))
    return lambda: backend.run(image, tensors)


_graphs: dict[str, bytes] = {}


def _exported(kind: str, source: TorchSource) -> bytes:
    if kind not in _graphs:
        _graphs[kind] = OnnxFromTorch().export(source)
    return _graphs[kind]


def _time(run_once: _Run) -> float:
    sleep(_PAUSE_SECONDS)
    started = perf_counter()
    run_once()
    return perf_counter() - started


def _cell(values: list[float]) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"
