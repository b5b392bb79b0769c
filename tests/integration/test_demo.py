"""The demo with a short training: every part of the story, its files and its figures."""

import json

import pytest

from pfm_edge.cli import main
from pfm_edge_runtime.keys import public_from_pem
from pfm_edge_runtime.receipts import verify_receipt

SMALL = ("training.epochs=2", "backbone.arguments.depth=1", "backbone.arguments.embed_dim=16")
SHORT = [*(word for override in SMALL for word in ("--set", override)), "--json"]


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_the_story(tmp_path, capsys, attention):
    out = tmp_path / "demo"
    arguments = ["demo", "--attention", attention, "--out", str(out), "--forget", "3", *SHORT]
    assert main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["bytes_after"] < figures["bytes_before"]
    assert figures["milliseconds"] > 0
    assert "3" not in {label for label, count in figures["gone_becomes"]}
    assert sum(count for _, count in figures["gone_becomes"]) > 0
    assert 0.0 <= figures["auroc"] <= 1.0
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "run" / "checkpoint.safetensors").exists()
    assert (out / "model" / "backbone.onnx").exists()
    assert json.loads((out / "report.json").read_text()) == figures
    assert figures["receipt"]["predicate"]["old_bytes"]["method"] == "overwritten"
    public = public_from_pem((out / "state" / "device.pub").read_bytes())
    facts = verify_receipt((out / "receipt.json").read_text(), public)
    assert facts.record.class_id == figures["receipt"]["predicate"]["class_id"]
    if attention == "joint":  # and once more over the same folder: a new device, the same issuer
        key = (out / "issuer.pem").read_bytes()
        assert main(arguments) == 0
        assert (out / "issuer.pem").read_bytes() == key


def test_an_unknown_label_stops_before_training(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--forget", "eleven", *SHORT]) == 1
    assert "no such label" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_device_that_can_import_torch_is_refused():
    import sys
    from pathlib import Path

    from pfm_edge.demo import DeviceProcess
    from pfm_edge.errors import RunError

    DeviceProcess(Path("model"), Path("state")).prove_torch_free()
    with pytest.raises(RunError, match="torch can be imported"):
        DeviceProcess(Path("model"), Path("state"), Path(sys.executable)).prove_torch_free()


def test_somebody_elses_folder_is_left_alone(tmp_path, capsys):
    mine = tmp_path / "demo" / "images" / "holiday.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("sun")
    assert main(["demo", "--out", str(tmp_path / "demo"), *SHORT]) == 1
    assert "is not replaced" in capsys.readouterr().err
    assert mine.read_text() == "sun"


def test_a_device_that_cannot_be_started(tmp_path, capsys):
    arguments = ["demo", "--out", str(tmp_path / "demo"), "--device-python", "/no/python", *SHORT]
    assert main(arguments) == 1
    assert "/no/python" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
