"""The tiny transformer as a package: exported with three classes of noise.

export(tmp_path / "model", precisions=("fp16",)).sizes
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pfm_edge_exporters import ExportOptions, export_package
from pfm_edge_runtime.bundle import Bundle, Entry, new_class_id
from pfm_edge_runtime.manifest import Manifest
from tests.support.tiny_torch import prefix_source

GRAPH_FILE = "backbone.onnx"
LABELS = ("daisy", "rose", "tulip")
FILES = {"manifest.json", "backbone.onnx", "golden.safetensors", "bundle.safetensors"}


def make_bundle(manifest: bytes) -> bytes:
    parsed = Manifest.from_bytes(manifest)
    draw = np.random.default_rng(3)
    entries = [
        Entry(
            class_id=new_class_id(),
            label=label,
            tensors={
                name: draw.standard_normal(shape, dtype=np.float32)
                for name, shape in parsed.bundle_inputs
            },
        )
        for label in LABELS
    ]
    return Bundle.build(
        model_id=parsed.model_id,
        manifest_digests=[f"sha256:{hashlib.sha256(manifest).hexdigest()}"],
        inputs=parsed.bundle_inputs,
        entries=entries,
        issued_at=datetime(2026, 1, 2, tzinfo=UTC),
    ).to_bytes()


def export(out, source=None, **options):
    calls = {"bundle": make_bundle}
    calls |= {name: options.pop(name) for name in ("bundle", "progress") if name in options}
    asked = ExportOptions(**{"max_classes": 3, **options})
    return export_package(source or prefix_source(), out, asked, **calls)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def old_package(out: Path) -> dict[str, bytes]:
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").write_bytes(b"old")
    return contents(out.parent)
