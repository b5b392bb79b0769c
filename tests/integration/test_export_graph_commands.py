"""`pfm-edge export` with all that it can add to a package, through main, on real digits."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pfm_edge.cli import main
from pfm_edge.training import load_model
from pfm_edge_runtime import Classifier
from pfm_edge_runtime.package import ModelPackage

CONFIG = """
data: {name: digits}
backbone:
  model: vit_tiny_patch16_224
  arguments: {img_size: 8, patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2, in_chans: 1}
  mean: [0.5]
  std: [0.5]
  crop_pct: 1.0
attention: joint
adaptation: {kind: full}
training: {epochs: 2, batch_size: 64, learning_rate: 3.0e-3, device: cpu}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    (folder / "small.yaml").write_text(CONFIG)
    assert main(["train", str(folder / "small.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def export(capsys, run, out, *options):
    assert main(["export", str(run), "--out", str(out), "--json", *options]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


def require_same_class(package):
    """Require that float16 names every digit as float32 does, but for those that are a tie there.

    A model of two epochs has some digits whose two best logits are closer than float16 tells.
    """
    images = [(each * 255 / 16).astype(np.uint8) for each in load_digits().images]
    full, half = (
        Classifier.open(package, precision=each, threads=1).predict(images)
        for each in ("fp32", "fp16")
    )
    best = [sorted(each.scores.values())[-2:] for each in full]
    ties = [np.log(first / second) < 0.001 for second, first in best]
    other = [one.class_id != two.class_id for one, two in zip(full, half, strict=True)]
    assert sum(ties) < len(images) / 50
    assert not any(differs and not tie for differs, tie in zip(other, ties, strict=True))


def test_everything_at_once(run, tmp_path, capsys):
    out = tmp_path / "model"
    asked = ["--precision", "fp16", "--precision", "int8", "--opset23", "--force"]
    asked += ["--static", "--max-classes", "12", "--batch", "2"]
    asked += ["--fold-normalization", "--calibration", "train", "--max-accuracy-drop", "2"]
    report = export(capsys, run, out, *asked)
    graphs = {each["file"]: each for each in report["graphs"]}
    assert list(graphs) == [
        "backbone.onnx",
        "backbone.fp16.onnx",
        "backbone.int8.onnx",
        "backbone.opset23.onnx",
        "backbone.static-12.onnx",
        "backbone.fp16.static-12.onnx",
        "backbone.int8.static-12.onnx",
    ]
    assert graphs["backbone.fp16.onnx"]["accuracy"]["images"] == 450  # all that are held out
    assert graphs["backbone.fp16.onnx"]["accuracy"]["same"] > 0.99
    require_same_class(out)
    assert graphs["backbone.int8.onnx"]["speed"]["before_ms"] > 0
    manifest = ModelPackage.open(out).manifest
    assert manifest.image.dtype == "uint8"
    assert manifest.created_with["int8"] == "static, 512 images of training"
    assert main(["verify", str(out), "--run", str(run)]) == 0
    image = np.full((8, 8), 200, np.uint8)
    labels = {Classifier.open(out, variant=file).predict(image).label for file in graphs}
    assert len(labels) == 1


def test_a_person_reads_what_each_graph_costs(run, tmp_path, capsys):
    options = ["--precision", "fp16", "--static"]
    assert main(["export", str(run), "--out", str(tmp_path / "model"), *options]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("backbone.onnx: ")
    assert "of float32; cosine to the model " in lines[1]
    assert "on 450 held-out images (before " in lines[1]
    assert lines[2].startswith("backbone.static-10.onnx: ")  # the run's classes


def test_fewer_bits_give_the_same_class_and_their_accuracy_is_stated(run, tmp_path, capsys):
    out = tmp_path / "model"
    options = ["--precision", "fp16", "--precision", "int8", "--force", "--max-accuracy-drop", "2"]
    assert main(["export", str(run), "--out", str(out), *options]) == 0
    full, half, eight, *_ = capsys.readouterr().err.splitlines()
    (accuracy,) = re.findall(r"; accuracy (0\.\d{4}) on 450 held-out images", full)
    assert re.search(rf"on 450 held-out images \(before {accuracy}, same class for [01]\.\d", half)
    require_same_class(out)
    assert f"on 450 held-out images (before {accuracy}, same class for " in eight
    assert re.search(r"; \d+\.\d\d times as fast \(.* ms an image, float32 .* ms", eight)


def test_another_image_size(run, tmp_path, capsys):
    out = tmp_path / "model"
    report = export(capsys, run, out, "--image-size", "12x8", "--max-accuracy-drop", "100")
    (graph,) = report["graphs"]
    assert ModelPackage.open(out).manifest.image.shape == (1, 12, 8)
    assert graph["accuracy"]["before"] != graph["accuracy"]["after"]
    assert main(["verify", str(out), "--run", str(run)]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--out", str(tmp_path / "no"), "--image-size", "12x8"]) == 1
    assert "points are lost, and 0.5 may be; choose another --image-size" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_calibration_with_a_folder(run, tmp_path, capsys):
    names = ["b/.hidden/0.png", "notes.txt", "a.PNG", *(f"b/{each}.png" for each in range(59))]
    for name, digit in zip(names, load_digits().images, strict=False):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digit * 15.9).astype(np.uint8)).save(path, "png")
    out = tmp_path / "model"
    options = ["--precision", "int8", "--force", "--calibration", str(tmp_path / "images")]
    export(capsys, run, out, *options, "--max-accuracy-drop", "100")
    made = ModelPackage.open(out).manifest.created_with["int8"]
    assert made == "static, 60 images of a folder"  # and not where it is


def test_no_class_leaves_a_trace_in_a_calibrated_graph(run, tmp_path, capsys, monkeypatch):
    """The same run, but for what it knows of its classes: another model of the same backbone."""
    options = ["--precision", "int8", "--force", "--calibration", "train"]
    options += ["--max-accuracy-drop", "100"]
    export(capsys, run, tmp_path / "one", *options)

    def loaded_otherwise(each):
        model = load_model(each)
        with torch.no_grad():
            for parameter in (model.prompts, model.head.weight, model.head.bias):
                parameter.mul_(50).add_(3)
        return model

    monkeypatch.setattr("pfm_edge.publishing._export.load_model", loaded_otherwise)
    export(capsys, run, tmp_path / "other", *options)
    one, other = (ModelPackage.open(tmp_path / name) for name in ("one", "other"))
    assert one.manifest == other.manifest  # with the digest of every graph
    assert one.bundle.to_bytes() != other.bundle.to_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-classes", "20"], "--max-classes fixes a static graph: add --static"),
        (["--batch", "2"], "--batch fixes a static graph: add --static"),
        (["--static", "--max-classes", "9"], "no room for the 10 that there are"),
        (["--calibration", "train"], "add --precision int8"),
        (["--precision", "int8", "--calibration", "nowhere"], "nowhere: no such folder"),
        (["--image-size", "9"], "not whole patches of 4 x 4; the nearest is 8 x 8"),
    ],
)
def test_what_cannot_be_is_one_line(run, tmp_path, capsys, options, words):
    assert main(["export", str(run), "--out", str(tmp_path / "model"), *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["0", "8x", "8x8x8", "eight"])
def test_what_is_no_size_is_said(run, tmp_path, capsys, size):
    assert main(["export", str(run), "--out", str(tmp_path / "model"), "--image-size", size]) == 2
    assert f"'{size}' is no size" in capsys.readouterr().err
