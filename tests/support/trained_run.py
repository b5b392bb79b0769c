"""A run of four people, and the bundle that was exported from it, to forget one of them in.

marks = marks_of(folder, 1)         # everything that one class is, in `run` and in `model`
entries_of(folder)                  # what the bundle says of each class
"""

from datetime import UTC, datetime

import safetensors.numpy

from pfm_edge.data import load_data
from pfm_edge.model import create_backbone, image_input, preprocessing
from pfm_edge.publishing._source import class_entries
from pfm_edge.training import Run
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.preprocessing import Preprocessor
from tests.support.byte_windows import Marks

LABELS = tuple(f"person-{name}" for name in ("anna", "boris", "clara", "dmitri"))
MODEL = ModelId("sha256:" + 64 * "a")
CONFIG = """
data: {{name: imagefolder, root: {root}, workers: 0}}
backbone:
  model: vit_tiny_patch16_224
  arguments: {{img_size: 8, patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2, in_chans: 1}}
adaptation: {{kind: {kind}}}
training: {{epochs: 6, batch_size: 8, device: cpu, select: best}}
"""


def loaded(config):
    backbone = create_backbone(config.backbone)
    spec = preprocessing(config.backbone, backbone)
    return load_data(config.data, Preprocessor(spec, image_input(backbone)))


def make_bundle(run, model):
    entries = class_entries(run, model)
    inputs = [(name, tensor.shape) for name, tensor in entries[0].tensors.items()]
    return Bundle.build(
        model_id=MODEL,
        manifest_digests=[MODEL],
        inputs=inputs,
        entries=entries,
        issued_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def marks_of(root, index):
    """Everything that one class is: rows of every checkpoint and of the package, and its label."""
    run, rows = Run.open(root / "run"), {}
    for file in (run.checkpoint, run.best):
        for name, tensor in safetensors.numpy.load_file(file).items():
            if any(part in name for part in ("prompts", "head.weight")) and tensor.ndim:
                rows[f"{file.name} {name}"] = tensor[index]
    bundle = Bundle.from_bytes((root / "model" / "bundle.safetensors").read_bytes())
    for name, tensor in bundle.tensors.items():
        row = tensor[bundle.class_ids.index(run.class_ids[index])]
        if row.size > 1:
            rows[f"bundle {name}"] = row
    return Marks.of(rows, [run.labels[index]])


def entries_of(root):
    return {
        entry.class_id: {name: tensor.tobytes() for name, tensor in entry.tensors.items()}
        for entry in Bundle.from_bytes((root / "model" / "bundle.safetensors").read_bytes()).entries
    }
