"""`pfm-edge export` with every option of its graphs, on a run that was trained: through `main`."""

import json

import pytest

from pfm_edge.cli import main
from pfm_edge.training import Run
from pfm_edge_runtime import Classifier
from pfm_edge_runtime.manifest import Manifest

CONFIG = """
data: {name: digits, test_fraction: 0.05}
backbone:
  model: vit_tiny_patch16_224
  arguments: {img_size: 8, patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2, in_chans: 1}
adaptation: {kind: full}
training: {epochs: 1, batch_size: 64, device: cpu, max_steps: 20}
"""
HELD_OUT = 90  # of 1,797


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    assert main(["train", str(folder / "small.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def export(run, out, capsys, *options):
    capsys.readouterr()
    given = ["export", str(run), "--out", str(out), "--json", "--force", *options]
    assert main([*given, "--max-accuracy-drop", "100"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_option_reaches_the_package(run, tmp_path, capsys):
    options = ["--precision", "fp16", "--precision", "int8", "--static", "--max-classes", "16"]
    options += ["--batch", "2", "--opset23", "--fold-normalization", "--image-size", "16x8"]
    report = export(run, tmp_path / "model", capsys, *options)
    found = [(e["precision"], e["capacity"], e["batch"], e["opset"]) for e in report["graphs"]]
    precisions = ("fp32", "fp16", "int8")
    assert found == [
        *((each, None, None, 18) for each in precisions),
        ("fp32", None, None, 23),
        *((each, 16, 2, 18) for each in precisions),
    ]
    # The first is compared with the run at its own size, fewer bits with the same.
    judged = [each["file"] for each in report["graphs"] if each["accuracy"] is not None]
    assert judged == [
        "backbone.onnx",
        "backbone.fp16.onnx",
        "backbone.int8.onnx",
        "backbone.fp16.static-16.onnx",
        "backbone.int8.static-16.onnx",
    ]
    manifest = Manifest.from_bytes((tmp_path / "model" / "manifest.json").read_bytes())
    assert (manifest.image.dtype, manifest.image.shape) == ("uint8", (1, 16, 8))
    assert manifest.created_with["int8"] == "dynamic"
    assert main(["verify", str(tmp_path / "model"), "--run", str(run)]) == 0


def test_half_precision_is_measured_on_held_out_images_of_the_run(run, tmp_path, capsys):
    report = export(run, tmp_path / "model", capsys, "--precision", "fp16")
    first, half = (each["accuracy"] for each in report["graphs"])
    assert first["images"] == half["images"]
    assert abs(first["images"] - HELD_OUT) < 10
    assert first["same"] == 1
    assert half["same"] > 0.97
    assert half["before"] == first["after"]


def test_after_a_forget_the_others_are_measured_by_their_own_labels(run, tmp_path, capsys):
    before = export(run, tmp_path / "before", capsys, "--precision", "fp16", "--image-size", "8")
    gone = Run.open(run).classes[0]
    assert main(["forget", str(run), "--class", gone.class_id, "--yes"]) == 0
    after = export(run, tmp_path / "after", capsys, "--precision", "fp16", "--image-size", "8")
    first, least = before["graphs"][0]["accuracy"], after["graphs"][0]["accuracy"]
    assert least["images"] < first["images"]
    assert least["same"] == 1  # the graph's rows and the run's are the same classes
    assert gone.label not in {each.label for each in Classifier.open(tmp_path / "after").classes}
