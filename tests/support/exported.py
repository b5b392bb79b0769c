"""Architectures as graphs, each exported once in a process, and what is verified of each.

Every function gives a figure or raises; what it must be is for the caller to say::

    model = exported("DINOv3", "prefix")
    parity(model).worst              # largest absolute difference from torch, over the grid
    build_engine(model).layers       # by TensorRT for RTX's own builder
"""

import gc
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from torch.onnx._internal.exporter._registration import ONNXRegistry

from pfm_edge.model import AttentionKind, PromptedViT
from pfm_edge.publishing import deployable_source
from pfm_edge_exporters import (
    OnnxFromTorch,
    ParityReport,
    TorchSource,
    check_parity,
    parity_classes,
    torch_reference,
)
from pfm_edge_exporters._class_inputs import bake_classes, optional_classes
from pfm_edge_exporters._half import require_half_rules, to_half
from pfm_edge_exporters._static import to_static
from pfm_edge_exporters.ort_adapter import write_adapter
from pfm_edge_exporters.tensorrt_from_onnx import (
    Engine,
    Profile,
    Range,
    TensorRtFromOnnx,
    load_tensorrt,
)
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.manifest import Variant
from tests.support.architectures import Architecture
from tests.support.environments import RUNTIME, environment, run

__all__ = [
    "MAX_CLASSES",
    "OLDEST",
    "Exported",
    "adapter_difference",
    "build_engine",
    "differences_on_oldest",
    "export",
    "exported",
    "half_cosine",
    "inside_difference",
    "parity",
    "source_of",
    "static_difference",
]

MAX_CLASSES = 100
OLDEST = "1.18.1"
"""The ONNX Runtime of JetPack 6's generation; it is built for numpy 1."""

_CAPACITY = 8
_COMPUTE_CAPABILITY = "8.6"  # any that the builder knows: no GPU is needed to build for one
_POINTS = ((1, 1), (2, 7), (5, MAX_CLASSES))  # images and classes
_RUN = """
    import json, sys
    import numpy as np, onnxruntime
    from pfm_edge_runtime.backends import load_backend
    assert np.__version__.startswith("1."), np.__version__
    worst = {"version": onnxruntime.__version__}
    for name in json.load(open("names.json")):
        backend = load_backend("onnxruntime")(open(f"{name}.onnx", "rb").read(), threads=1)
        cases = np.load(f"{name}.npz")
        found = 0.0
        for point in sorted({each.split("/")[0] for each in cases.files}):
            start = f"{point}/in/"
            tensors = {n[len(start):]: cases[n] for n in cases.files if n.startswith(start)}
            outputs = backend.run(cases[f"{point}/image"], tensors)
            for output in ("logits", "embedding"):
                difference = np.abs(getattr(outputs, output) - cases[f"{point}/{output}"])
                found = max(found, float(difference.max()))
        worst[name] = found
    print(json.dumps(worst))
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """One architecture with one attention variant.

    Attributes:
        name: of both.
        source: the model, as an exporter takes it.
        graph: the contents of its ONNX file.
    """

    name: str
    source: TorchSource
    graph: bytes


def source_of(case: Architecture, attention: AttentionKind) -> TorchSource:
    """Make the model anew; only prompts differ from one time to the next, and they stay outside."""
    return deployable_source(PromptedViT(case.backbone(), attention, 2), case.config)


def export(source: TorchSource) -> bytes:
    """Export a model as `OnnxFromTorch` does, a fifth sooner.

    Torch makes its table of two thousand operators anew for each export, and Python looks through a
    million objects for cycles again and again; neither changes what comes out.
    """
    gc.disable()
    try:
        with patch.object(ONNXRegistry, "from_torchlib", staticmethod(_operators)):
            return OnnxFromTorch().export(source)
    finally:
        gc.enable()


_operators = cache(ONNXRegistry.from_torchlib)


@cache
def exported(case: Architecture, attention: AttentionKind) -> Exported:
    """Export an architecture, once in a process."""
    source = source_of(case, attention)
    return Exported(f"{case.name}, {attention}", source, export(source))


def parity(model: Exported) -> ParityReport:
    """Compare the graph with torch over batch {1, 2, 5} x classes {1, 2, 7, 100}."""
    backend = load_backend("onnxruntime")(model.graph, threads=1)
    classes = parity_classes(MAX_CLASSES)
    return check_parity(torch_reference(model.source), backend, model.source, classes=classes)


def build_engine(model: Exported) -> Engine:
    """Parse and build the graph with TensorRT for RTX, with ranges over both axes."""
    builder = TensorRtFromOnnx(
        load_tensorrt("tensorrt_rtx"),
        profiles=(Profile(Range(1, 2, 8), Range(1, 7, 128)),),
        compute_capabilities=(_COMPUTE_CAPABILITY,),
    )
    return builder.export(model.graph)


def static_difference(model: Exported) -> float:
    """Compare the graph with the one for at most eight classes, five of its rows padding."""
    images, tensors = _drawn(model, 2, 3)
    graph = onnx.load_model_from_string(model.graph)
    to_static(graph, Variant("backbone.static-8.onnx", "fp32", _CAPACITY), model.source)
    padded: dict[str, np.ndarray] = {"class_mask": np.arange(_CAPACITY) < 3}
    for each in model.source.class_inputs:
        rows = [(0, 0)] * tensors[each.name].ndim
        rows[each.class_axis] = (0, _CAPACITY - 3)
        padded[each.name] = np.pad(tensors[each.name], rows)
    outputs = ["logits", "embedding"]
    logits, embedding = _session(graph.SerializeToString()).run(
        outputs, {"image": images, **padded}
    )
    expected = _session(model.graph).run(outputs, {"image": images, **tensors})
    return _difference((logits[:, :3], embedding), expected)


def half_cosine(model: Exported) -> float:
    """Compare the graph with its half precision, both by `onnx.reference`; check its rules too.

    Returns:
        The least cosine over images, of logits and of embeddings.
    """
    images, tensors = _drawn(model, 2, 3)
    graph = onnx.load_model_from_string(model.graph)
    runs = []
    for convert in (lambda _: None, to_half):
        convert(graph)
        evaluator = ReferenceEvaluator(graph)
        runs.append(evaluator.run(["logits", "embedding"], {"image": images, **tensors}))
    require_half_rules(graph)
    return min(_cosine(one, other) for one, other in zip(*runs, strict=True))


def inside_difference(model: Exported) -> float:
    """Compare the graph with itself with classes inside, as Triton serves it."""
    images, tensors = _drawn(model, 5, 7)
    load = load_backend("onnxruntime")
    outside = load(model.graph, threads=1).run(images, tensors)
    inside = load(bake_classes(model.graph, tensors), threads=1).run(images, {})
    return _difference((inside.logits, inside.embedding), (outside.logits, outside.embedding))


def adapter_difference(model: Exported, folder: Path) -> float:
    """Compare the graph with itself with classes through ONNX Runtime's adapter."""
    images, tensors = _drawn(model, 2, 7)
    write_adapter(folder / "x.onnx_adapter", tensors, adapter_version=1, model_version=1)
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(folder / "x.onnx_adapter"))
    running = onnxruntime.RunOptions()
    running.add_active_adapter(adapter)
    outputs = ["logits", "embedding"]
    graph = optional_classes(model.graph, model.source.class_inputs)
    through = _session(graph).run(outputs, {"image": images}, running)
    given = _session(model.graph).run(outputs, {"image": images, **tensors})
    return _difference(through, given)


def differences_on_oldest(models: Sequence[Exported], folder: Path) -> dict[str, float]:
    """Compare the graphs with torch on the oldest ONNX Runtime, all in one process of it."""
    python = environment([RUNTIME, f"onnxruntime=={OLDEST}", "numpy<2"], constraints=False)
    names = [f"graph{index}" for index in range(len(models))]
    for name, model in zip(names, models, strict=True):
        (folder / f"{name}.onnx").write_bytes(model.graph)
        np.savez(folder / f"{name}.npz", **_cases(model))
    (folder / "names.json").write_text(json.dumps(names))
    found = json.loads(run([str(python), "-c", textwrap.dedent(_RUN)], cwd=folder))
    assert found["version"] == OLDEST
    return {model.name: found[name] for name, model in zip(names, models, strict=True)}


def _cases(model: Exported) -> dict[str, np.ndarray]:
    cases = {}
    for batch, classes in _POINTS:
        images, tensors = _drawn(model, batch, classes)
        outputs = torch_reference(model.source)(images, tensors)
        point = f"{batch}x{classes}"
        cases[f"{point}/image"] = images
        cases |= {f"{point}/in/{name}": tensor for name, tensor in tensors.items()}
        cases[f"{point}/logits"], cases[f"{point}/embedding"] = outputs.logits, outputs.embedding
    return cases


def _drawn(model: Exported, batch: int, classes: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    draw = np.random.default_rng(batch)
    images = draw.standard_normal((batch, *model.source.image.shape), dtype=np.float32)
    return images, model.source.synthesize(classes, draw)


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it remarks that inputs with a default are no constants
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = (each.astype(np.float64) for each in (one, other))
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float(((one * other).sum(axis=-1) / norms).min())


def _difference(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))
