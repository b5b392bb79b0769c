"""`pfm-edge export --target` and `--list-targets`, on a package without a run."""

import json
from pathlib import Path

import pytest

from pfm_edge.cli import main
from pfm_edge_exporters.targets import TARGETS
from tests.support.tiny_package import TinyPackage, write_tiny_package


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def refused(capsys, *arguments: object) -> str:
    assert main(["export", *map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_targets_are_listed_with_what_each_takes(capsys):
    assert main(["export", "--list-targets", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)["targets"]}
    assert listed.keys() == {"onnx", *TARGETS}
    assert (listed["onnx"]["takes"], listed["triton"]["takes"]) == ("run", "package")
    assert any(each["name"].startswith("--key") for each in listed["onnx"]["options"])
    assert not any("--json" in each["name"] for each in listed["onnx"]["options"])
    assert "-O timing-cache" in {each["name"] for each in listed["tensorrt"]["options"]}
    assert main(["export", "--list-targets"]) == 0
    text = capsys.readouterr().out
    for target in TARGETS.values():
        assert f"{target.name}: {target.summary}" in text
    assert "-O batch=MIN:OPT:MAX" in text


def test_what_a_target_does_not_take_is_one_helpful_line(tiny, capsys):
    for arguments, message in (
        ([tiny, "--target", "tritn"], "did you mean 'triton'?"),
        ([tiny], "is a model package already: name what to make of it"),
        ([tiny, "-O", "batch=1"], "target onnx does not take --option"),
        ([tiny, "--untracked"], "target onnx does not take --untracked"),
        ([tiny, "--target", "triton", "--key", "k"], "does not take --key, which is for onnx"),
        ([tiny, "--target", "triton"], "name the run whose forget shall reach them"),
        ([tiny, "--target", "triton", "--run", "r", "--untracked"], "one of them, not both"),
        ([tiny, "--target", "tensorrt-rtx", "--untracked"], "writes no class"),
        ([tiny, "--target", "tensorrt-rtx", "-O", "levl=1"], "takes no option 'levl'"),
        ([tiny.directory / "no", "--target", "triton", "--untracked"], "is no model package"),
    ):
        assert message in refused(capsys, *arguments)
    (tiny.directory.parent / "run").mkdir()
    (tiny.directory.parent / "run" / "classes.json").touch()
    run = tiny.directory.parent / "run"
    assert "is a training run" in refused(capsys, run, "--target", "ort-adapter", "--untracked")
    assert main(["export"]) == 2
    assert "Missing argument 'SOURCE'" in capsys.readouterr().err


def test_artefacts_go_where_one_looks_for_them(tiny, capsys):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu12 is not installed")
    arguments = ["export", str(tiny), "--json", "--target"]
    made = {}
    for name, more in (("tensorrt-rtx", []), ("triton", ["--untracked"])):
        assert main([*arguments, name, *more]) == 0
        made[name] = json.loads(capsys.readouterr().out)["path"]
    assert made["tensorrt-rtx"] == str(tiny.directory / "tensorrt-rtx" / "backbone")
    assert made["triton"] == str(tiny.directory.with_name("model-triton") / "model")
    assert main([*arguments[:2], "--target", "ort-adapter", "--untracked"]) == 0
    assert "no forget reaches it" in " ".join(capsys.readouterr().err.split())
