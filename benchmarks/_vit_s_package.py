"""Packages with the class tensors of a ViT-S and no graph: what opening and forgetting cost.

package = write_package(directory, "prefix", classes=1000, key=SigningKey.generate())
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pfm_edge_runtime.bundle import Bundle, Entry, new_class_id
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.manifest import (
    ClassInput,
    ImageInput,
    Manifest,
    ModelId,
    Preprocessing,
    Variant,
)

__all__ = ["write_package"]

_LAYERS, _HEADS, _HEAD_SIZE, _WIDTH = 12, 6, 64, 384  # ViT-S
_HEAD = (ClassInput("class_weight", (_WIDTH,), 0), ClassInput("class_bias", (), 0))
_INPUTS = {
    "joint": (ClassInput("prompts", (_WIDTH,), 0), *_HEAD),
    "prefix": (
        ClassInput("prompt_keys", (_LAYERS, _HEADS, _HEAD_SIZE), 2),
        ClassInput("prompt_values", (_LAYERS, _HEADS, _HEAD_SIZE), 2),
        *_HEAD,
    ),
}
_GRAPH = b"no graph: only the bundle is measured"


def write_package(directory: Path, attention: str, *, classes: int, key: SigningKey) -> int:
    """Write a package whose bundle is signed; returns the size of the bundle, in bytes."""
    directory.mkdir(parents=True)
    manifest = Manifest(
        model_id=ModelId("sha256:" + "5e" * 32),
        attention=attention,
        image=ImageInput("image", (3, 224, 224)),
        class_inputs=_INPUTS[attention],
        preprocessing=Preprocessing("RGB", 256, "bicubic", 0.875, "center", (0.5,) * 3, (0.5,) * 3),
        variants=(Variant("backbone.onnx", "fp32"),),
        files={"backbone.onnx": digest_of(_GRAPH), "golden.safetensors": digest_of(b"")},
        created_with={"benchmarks": "1"},
    )
    bundle = Bundle.build(
        model_id=manifest.model_id,
        manifest_digests=[digest_of(manifest.to_bytes())],
        inputs=manifest.bundle_inputs,
        entries=_entries(manifest, classes),
        issued_at=datetime.now(UTC),
    ).signed_by(key)
    data = bundle.to_bytes()
    for name, content in {
        "backbone.onnx": _GRAPH,
        "golden.safetensors": b"",
        "manifest.json": manifest.to_bytes(),
        "bundle.safetensors": data,
    }.items():
        (directory / name).write_bytes(content)
    return len(data)


def _entries(manifest: Manifest, classes: int) -> list[Entry]:
    draw = np.random.default_rng(0)
    return [
        Entry(
            class_id=new_class_id(),
            label=f"class {index}",
            tensors={
                each.name: draw.standard_normal(each.slice_shape, dtype=np.float32)
                if each.slice_shape
                else np.array(draw.standard_normal(), np.float32)
                for each in manifest.class_inputs
            },
        )
        for index in range(classes)
    ]
