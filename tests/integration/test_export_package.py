"""A whole package: written, opened as a device does, the same each time, or not written at all."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from pfm_edge_exporters import (
    ExportError,
    ParityError,
    check_golden,
    make_golden,
    torch_reference,
    verify_package,
)
from pfm_edge_runtime import Classifier
from pfm_edge_runtime.bundle import read_tensors, write_tensors
from pfm_edge_runtime.errors import (
    PackageError,
)
from pfm_edge_runtime.package import ModelPackage
from tests.support.tiny_export import FILES, GRAPH_FILE, LABELS, contents, export, make_bundle
from tests.support.tiny_torch import (
    JOINT_INPUTS,
    Joint,
    prefix_source,
    source_of,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A package, and what its export reported."""
    out = tmp_path_factory.mktemp("exported") / "model"
    stages = []
    return export(out, progress=stages.append), stages


@pytest.fixture
def package(exported, tmp_path):
    """A copy of the package, to be damaged."""
    return Path(shutil.copytree(exported[0].path, tmp_path / "model"))


def test_a_package_has_its_four_files_and_nothing_else(exported):
    report, _ = exported
    assert contents(report.path).keys() == FILES
    assert dict(report.sizes) == {name: len(data) for name, data in contents(report.path).items()}
    assert [each.name for each in report.path.parent.iterdir()] == ["model"]


def test_a_device_can_use_it(exported):
    report, _ = exported
    model = Classifier.open(report.path)
    assert {each.label for each in model.classes} == set(LABELS)
    image = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    assert model.predict(image).label in LABELS
    assert model.embed([image, image]).shape == (2, 16)


def test_the_manifest_says_what_the_source_said(exported):
    report, _ = exported
    source = prefix_source()
    manifest = ModelPackage.open(report.path).manifest
    assert manifest.model_id == source.model_id == report.model_id
    assert manifest.class_inputs == source.class_inputs
    assert manifest.preprocessing == source.preprocessing
    assert manifest.created_with["torch"] == version("torch")
    assert {"onnx", "numpy", "pfm-edge-exporters"} <= manifest.created_with.keys()
    (variant,) = manifest.variants
    assert (variant.file, variant.precision, variant.capacity) == (GRAPH_FILE, "fp32", None)


def test_the_report_says_what_was_done(exported):
    report, stages = exported
    assert list(report.seconds) == stages
    assert len(stages) == 6
    assert [row.classes for row in report.parity.rows[::3]] == [1, 2, 3, 7]
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert document["parity"]["worst"] <= 1e-5
    assert "4 files" in report.summary()
    assert "agree to" in report.summary()


BUNDLES = """
from datetime import UTC, datetime
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.manifest import Manifest

def make_bundle(manifest):
    parsed = Manifest.from_bytes(manifest)
    return Bundle.build(
        model_id=parsed.model_id,
        manifest_digests=[digest_of(manifest)],
        inputs=parsed.bundle_inputs,
        entries=[],
        issued_at=datetime(2026, 1, 2, tzinfo=UTC),
    ).to_bytes()
"""
SCRIPT = """
import sys
from pathlib import Path
import tiny_torch
from pfm_edge_exporters import ExportOptions, export_package
from bundles import make_bundle
options = ExportOptions(
    max_classes=3, precisions=("fp16", "int8"), capacity=4, batch=2, opset23=True, force=True
)
export_package(tiny_torch.prefix_source(), Path("out/model"), options, bundle=make_bundle)
"""


def test_two_processes_in_two_folders_write_the_same_bytes(exported, tmp_path):
    support = Path(__file__).parents[1] / "support" / "tiny_torch.py"
    children = []
    for name in ("one", "another/and/deeper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        shutil.copy(support, folder / "tiny_torch.py")
        (folder / "bundles.py").write_text(BUNDLES)
        seed = {"PYTHONHASHSEED": str(len(children) + 1), "PYTHONPATH": "."}
        children.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", SCRIPT],
                cwd=folder,
                env={**os.environ, **seed},
                stderr=subprocess.PIPE,
            )
        )
    assert [child.communicate()[1] for child in children] == [b"", b""]
    first, second = (contents(p) for p in sorted(tmp_path.rglob("model")))
    assert first == second
    assert len(first) == 10  # one graph of each kind
    for name in ("backbone.onnx", "golden.safetensors"):  # which need nothing of the others
        assert first[name] == (exported[0].path / name).read_bytes()
    for name, data in first.items():
        assert b"tmp" not in data, f"{name} tells where it was made"
        assert b"tiny_torch" not in data


def test_golden_vectors_are_nobodys_and_complete(exported):
    tensors, metadata = read_tensors((exported[0].path / "golden.safetensors").read_bytes())
    assert metadata == {"model_id": exported[0].model_id, "pfm_golden": "1"}
    assert tensors["image"].shape == (5, 1, 8, 8)
    for count in (1, 2, 7):
        assert tensors[f"c{count}.input.prompt_keys"].shape == (2, 2, count, 8)
        assert tensors[f"c{count}.output.logits"].shape == (5, count)
        assert tensors[f"c{count}.output.embedding"].shape == (5, 16)
    stored = ModelPackage.open(exported[0].path).bundle.tensors["prompt_keys"]
    golden = np.moveaxis(tensors["c7.input.prompt_keys"], 2, 0)
    assert not any(np.array_equal(one, other) for one in stored for other in golden)


def test_verifying_needs_no_torch(exported):
    report = check_golden(exported[0].path)
    (graph,) = report.graphs
    assert [(r.classes, r.batch) for r in graph.rows] == [
        (c, b) for c in (1, 2, 7) for b in (1, 2, 5)
    ]
    assert report.worst == graph.worst < 1e-5
    assert "ONNX Runtime" in graph.backend
    assert json.loads(json.dumps(report.as_dict()))["worst"] == report.worst
    assert graph.summary().startswith("backbone.onnx: agrees to ")


def test_verifying_with_torch_compares_the_whole_grid(exported):
    opened = ModelPackage.open(exported[0].path)
    (graph,) = verify_package(opened, prefix_source(), max_classes=20).graphs
    assert graph.rows[-1].classes == 20
    assert graph.sensitivity > 1e-2
    other = source_of(Joint(), JOINT_INPUTS, "joint")
    with pytest.raises(ExportError, match="other inputs than the model"):
        verify_package(opened, other, max_classes=3)


def rewrite_golden(package: Path, change, relist=True) -> None:
    """Change the golden vectors, and let the manifest and the bundle know of it."""
    path = package / "golden.safetensors"
    tensors, metadata = read_tensors(path.read_bytes())
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(tensors, metadata)
    path.write_bytes(write_tensors(tensors, metadata))
    manifest = json.loads((package / "manifest.json").read_bytes())
    manifest["files"]["golden.safetensors"] = (
        f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    )
    if not relist:
        del manifest["files"]["golden.safetensors"]
    data = (json.dumps(manifest, indent=2) + "\n").encode()
    (package / "manifest.json").write_bytes(data)
    (package / "bundle.safetensors").write_bytes(make_bundle(data))


def raise_one(tensors, metadata):
    tensors["c2.output.logits"][1, 0] += 1e-3


def spoil_nan(tensors, metadata):
    tensors["c7.output.embedding"][4, 0] = np.nan


def test_a_graph_that_computes_something_else_is_found(package):
    rewrite_golden(package, raise_one)
    with pytest.raises(ParityError) as caught:
        check_golden(package)
    message = str(caught.value)
    graph = package / GRAPH_FILE
    assert message.startswith(f"{graph}: the graph does not agree with its golden vectors")
    assert "2 images and 2 classes the logits values differ by 1.0e-03" in message
    assert "\n" not in message
    assert check_golden(package, batches=(1,)).worst < 1e-5


def test_a_golden_nan_is_no_agreement(package):
    rewrite_golden(package, spoil_nan)
    with pytest.raises(ParityError, match="5 images and 7 classes the embedding values are not"):
        check_golden(package)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, metadata: tensors.pop("c7.input.prompt_keys"), "does not hold what"),
        (lambda tensors, metadata: tensors.pop("c1.output.embedding"), "lacks the embedding"),
        (lambda tensors, metadata: tensors.update(more=np.zeros(1, np.float32)), "does not hold"),
        (lambda tensors, metadata: metadata.update(model_id="sha256:" + 64 * "0"), "another model"),
        (lambda tensors, metadata: metadata.update(pfm_golden="2"), "another model or format"),
    ],
)
def test_golden_vectors_that_do_not_fit_are_refused(package, change, words):
    rewrite_golden(package, change)
    with pytest.raises(PackageError, match=words) as caught:
        check_golden(package)
    assert "\n" not in str(caught.value)


def test_golden_vectors_that_the_manifest_does_not_list_are_refused(package):
    rewrite_golden(package, lambda *_: None, relist=False)
    with pytest.raises(PackageError, match=r"not listed in manifest\.json"):
        check_golden(package)


def test_a_model_that_gives_no_numbers_makes_no_golden_vectors():
    module = Joint()
    with torch.no_grad():
        module.norm.weight.fill_(float("nan"))
    source = source_of(module, JOINT_INPUTS)
    with pytest.raises(ExportError, match=r"not finite for noise \(c1.output.logits\)"):
        make_golden(torch_reference(source), source)
