"""`pfm-edge` through `main(argv)`: the story that the README tells, and what goes wrong in it."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pfm_edge.cli import main
from pfm_edge_runtime import Classifier

CONFIG = """
data: {name: digits}
backbone:
  model: vit_tiny_patch16_224
  arguments: {img_size: 8, patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2, in_chans: 1}
  mean: [0.5]
  std: [0.5]
  crop_pct: 1.0
attention: prefix
adaptation: {kind: full}
training: {epochs: 2, batch_size: 64, learning_rate: 3.0e-3, device: cpu}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module", params=["prefix", "joint"])
def run(request, config, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "run"
    override = f"attention={request.param}"
    assert main(["train", str(config), "--out", str(path), "--set", override]) == 0
    return path


@pytest.fixture(scope="module")
def package(run):
    path = run.parent / "model"
    assert main(["export", str(run), "--out", str(path)]) == 0
    return path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_evaluate_prints_json_and_keeps_it(run, capsys):
    assert main(["evaluate", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((run / "evaluation.json").read_text())
    assert [row["removed"] for row in report["forgetting"]] == [1, 5, 9]
    assert report["claim_level"] == "L0"


def test_evaluate_prints_tables(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr()
    assert "head rows kept" in printed.out
    assert "Oracle modes" in printed.out
    assert "cannot show that nothing of the class remains" in printed.err


def test_verify(run, package, capsys):
    assert main(["verify", str(package), "--run", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["golden"]["worst"] <= 1e-4
    assert report["parity"]["worst"] <= 1e-4
    (graph,) = report["parity"]["graphs"]
    assert graph["file"] == "backbone.onnx"
    grid = {(row["batch"], row["classes"]) for row in graph["rows"]}
    assert grid == {(b, c) for b in (1, 2, 5) for c in (1, 2, 7, 10)}


def test_the_package_predicts_as_the_model_does(run, package):
    import torch

    from pfm_edge.cli._train import open_data
    from pfm_edge.training import Run, load_model

    opened = Run.open(run)
    model, data = load_model(opened), open_data(opened.config)
    rows = torch.arange(40)
    with torch.inference_mode():
        probabilities = model(data.test.images(rows), model.full_bank()).softmax(1).numpy()
    device = Classifier.open(package)
    predictions = device.predict([data.test.source(int(row)) for row in rows])
    for expected, prediction in zip(probabilities, predictions, strict=True):
        for record in opened.classes:
            score = prediction.scores[record.class_id]
            assert score == pytest.approx(float(expected[record.index]), abs=1e-4)


def test_verify_refuses_the_package_of_another_run(run, package, config, tmp_path, capsys):
    assert main(["train", str(config), "--out", str(tmp_path / "other")]) == 0
    assert main(["verify", str(package), "--run", str(tmp_path / "other")]) == 1
    assert "was not exported from" in capsys.readouterr().err


def test_verify_finds_an_altered_graph(package, tmp_path, capsys):
    altered = shutil.copytree(package, tmp_path / "model")
    graph = bytearray((altered / "backbone.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (altered / "backbone.onnx").write_bytes(graph)
    assert main(["verify", str(altered)]) == 1
    assert "backbone.onnx" in capsys.readouterr().err


def test_export_does_not_replace_unasked(run, package, capsys):
    before = contents(package)
    assert main(["export", str(run), "--out", str(package)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert contents(package) == before
    assert main(["export", str(run), "--out", str(package), "--overwrite"]) == 0
    after = contents(package)
    bundle = "bundle.safetensors"
    assert {n: b for n, b in before.items() if n != bundle} == {
        n: b for n, b in after.items() if n != bundle
    }


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_disk_that_fails_while_exporting(run, package, monkeypatch, capsys, call):
    before, beside = contents(package), sorted(package.parent.iterdir())

    def refuse(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    names = {"write": ["write"], "fsync": ["fsync"], "rename": ["rename", "replace"]}[call]
    for name in names:
        monkeypatch.setattr(os, name, refuse)
    if call == "rename":
        monkeypatch.setattr("pfm_edge_runtime.store._exchange_at_once", refuse)
    if call == "write":  # whatever way bytes take to the file
        monkeypatch.setattr("pfm_edge_runtime.store.os.write", refuse)
    code = main(["export", str(run), "--out", str(package), "--overwrite"])
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert code == 1, error
    assert "No space left on device" in error
    assert "Traceback" not in error
    assert contents(package) == before
    assert sorted(package.parent.iterdir()) == beside


def test_a_run_resumes_and_is_not_replaced_unasked(config, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", str(config), "--out", out, "--set", "training.max_steps=2"]) == 0
    assert main(["train", str(config), "--out", out]) == 1
    assert "--resume continues it, --overwrite replaces it" in capsys.readouterr().err
    assert main(["train", str(config), "--out", out, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 44


BAD = {
    "misspelt-key": (["--set", "training.learning_rte=1"], "did you mean 'learning_rate'"),
    "unknown-model": (["--set", "backbone.model=vit_tinny_patch16_224"], "timm knows no model"),
    "no-vit": (
        ["--set", "backbone.model=resnet18", "--set", "backbone.arguments={}"],
        "is a ResNet: it is no transformer of tokens",
    ),
    "missing-weights": (["--set", "backbone.weights=nowhere.safetensors"], "nowhere.safetensors"),
    "missing-folder": (
        ["--set", "data.name=imagefolder", "--set", "data.root=nowhere"],
        "nowhere",
    ),
    "no-value": (["--set", "training.epochs"], "training.epochs"),
    "bad-value": (["--set", "training.epochs=many"], "training.epochs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_to_train(config, tmp_path, capsys, name):
    options, message = BAD[name]
    code = main(["train", str(config), "--out", str(tmp_path / "run"), *options])
    error = capsys.readouterr().err
    assert code == 1
    assert message in error
    assert error.strip().startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "shape", ["wrong-shape", "no-safetensors", "pickle"], ids=lambda value: value
)
def test_weights_that_do_not_fit(config, tmp_path, capsys, shape):
    import safetensors.numpy

    path = tmp_path / "weights.safetensors"
    if shape == "wrong-shape":
        path.write_bytes(
            safetensors.numpy.save({"cls_token": np.zeros((1, 1, 7), dtype=np.float32)})
        )
    else:
        path.write_bytes(b"\x80\x04K\x01." if shape == "pickle" else b"weights")
    out = tmp_path / "run"
    override = f"backbone.weights={path}"
    assert main(["train", str(config), "--out", str(out), "--set", override]) == 1
    error = capsys.readouterr().err.strip()
    assert str(path) in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_usage_errors_exit_with_2(config, capsys):
    assert main(["train"]) == 2
    assert main(["train", str(config), "--resume", "--overwrite"]) == 2
    assert main(["no-such-command"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_every_command_has_help_with_an_example(capsys):
    bundle = [["bundle", each] for each in ("inspect", "verify", "sign", "diff", "without")]
    names = ("train", "evaluate", "export", "verify", "forget", "demo")
    for command in (*([name] for name in names), *bundle, ["keys", "new"], ["weights", "import"]):
        assert main([*command, "--help"]) == 0
        assert "Example: pfm" in capsys.readouterr().out.replace("pip download", "pfm")


def test_resume_needs_a_run(config, tmp_path, capsys):
    assert main(["train", str(config), "--out", str(tmp_path / "typo"), "--resume"]) == 1
    assert "no run here" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_an_old_run_goes_only_for_one_that_can_start(config, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out), "--set", "training.max_steps=1"]) == 0
    before = contents(out)
    arguments = ["train", str(config), "--out", str(out), "--overwrite", "--set"]
    assert main([*arguments, f"backbone.weights={tmp_path / 'nowhere'}"]) == 1
    if not torch_has_cuda():
        assert main([*arguments, "training.device=cuda"]) == 1
    assert contents(out) == before
    assert "Traceback" not in capsys.readouterr().err


def torch_has_cuda():
    import torch

    return torch.cuda.is_available()


def test_an_error_is_one_line_of_a_real_process(tmp_path):
    command = [sys.executable, "-m", "pfm_edge", "evaluate", f"{tmp_path}/a\nb:smile:[red]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert ":smile:[red]" in done.stderr


def test_a_full_standard_output(run):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pfm_edge", "evaluate", str(run), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert main(["--debug", "evaluate", str(tmp_path)]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "Traceback" not in capsys.readouterr().err
