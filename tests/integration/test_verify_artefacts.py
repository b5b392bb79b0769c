"""`pfm-edge verify` of what is no model package, and of an engine in one."""

import json
import shutil
from pathlib import Path

import pytest

from pfm_edge.cli import main
from pfm_edge_runtime.artefacts import TargetRecord
from pfm_edge_runtime.digest import digest_of
from tests.support.tiny_package import TinyPackage, write_tiny_package


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def said(capsys, *arguments: object, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["verify", *map(str, arguments)]) == status
    error = capsys.readouterr().err
    assert status == 0 or error.count("\n") == 1
    return " ".join(error.split())


@pytest.mark.parametrize("name", ["triton", "ort-adapter"])
def test_an_artefact_is_compared_with_its_record(tiny, tmp_path, capsys, name):
    out = tmp_path / "made"
    arguments = ["--target", name, "--untracked", "--out", str(out)]
    assert main(["export", str(tiny), *arguments]) == 0
    found = said(capsys, out)  # of triton, the repository
    assert f"{name}: 3 files, digests as target.json has them; nothing else was verified" in found
    assert "leave --run out" in said(capsys, out, "--run", tmp_path / "run", status=1)
    if name == "triton":
        (out / "model" / "config.pbtxt").write_text("# by hand\n")
        assert "changed by hand: config.pbtxt" in said(capsys, out)
        version = out / "model" / "2000000000"  # Triton would serve just that
        version.mkdir()
        (version / "model.onnx").touch()
        assert f"{version} is no version that target.json lists" in said(capsys, out, status=1)
        shutil.rmtree(version)
    path = next(each for each in out.rglob("labels.txt"))
    path.write_text("other\n")
    found = said(capsys, out, status=1)
    assert f"{path} is not the file that target.json lists: export it again" in found


def test_an_engine_is_verified_with_its_package(tiny, capsys):
    engine = tiny.directory / "tensorrt" / "backbone"
    engine.mkdir(parents=True)
    (engine / "backbone.plan").write_bytes(b"plan")
    record = TargetRecord(
        target="tensorrt",
        model_id=tiny.manifest.model_id,
        inputs={"manifest.json": digest_of(tiny.manifest.to_bytes())},
        made_with={},
        options={},
        files={"backbone.plan": digest_of(b"plan")},
    )
    (engine / "target.json").write_bytes(record.to_bytes())
    assert f"{engine}: tensorrt: 1 file, digests as" in said(capsys, tiny)
    assert main(["verify", str(tiny), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["artefacts"]
    assert found == {
        "path": str(engine),
        "target": "tensorrt",
        "files": 1,
        "edited": [],
        "unlisted": [],
    }
    (engine / "notes.txt").touch()
    (tiny.directory / "notes.txt").touch()
    found = said(capsys, tiny)
    assert f"no part of the package: {tiny.directory / 'notes.txt'} " in found
    assert "not of the export: notes.txt" in found
    (tiny.directory / "notes.txt").unlink()
    (engine / "backbone.plan").write_bytes(b"")
    assert "backbone.plan is not the file that" in said(capsys, tiny, status=1)
    (engine / "target.json").unlink()
    found = said(capsys, tiny, status=1)
    again = f"pfm-edge export {tiny} --target tensorrt --out {engine} -O variant=backbone.onnx"
    assert f"remove {engine}, and {again} makes it again" in found
    shutil.rmtree(engine.parent)
    assert "golden vectors: backbone.onnx" in said(capsys, tiny)


def test_what_is_no_package_is_said_to_be_none(tiny, tmp_path, capsys):
    manifest = tiny.directory / "manifest.json"
    found = said(capsys, manifest, status=1)
    assert f"{manifest} is no model package, but a file: name its directory" in found
    (tmp_path / "any").mkdir()
    found = said(capsys, tmp_path / "any", status=1)
    assert "any is no model package, and nothing in it was made of one" in found
    assert "there is no such directory" in said(capsys, tmp_path / "none", status=1)


def test_a_run_is_named_with_the_command_that_was_meant(tmp_path, capsys):
    (tmp_path / "classes.json").touch()
    found = said(capsys, tmp_path, status=1)
    assert f"{tmp_path} is a training run: pfm-edge verify MODEL --run {tmp_path}" in found
