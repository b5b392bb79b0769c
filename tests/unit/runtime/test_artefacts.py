"""What was made of a package: whether it is still what ``target.json`` says, and of which package.

How a record itself may be damaged is in ``tests/unit/exporters/test_target_options.py``.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from pfm_edge_runtime.artefacts import RECORD_FILE, TargetRecord, artefacts_in, verify_artefact
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.doctor import examine_model, package_bytes
from pfm_edge_runtime.errors import PackageError
from pfm_edge_runtime.package import PackageFiles
from tests.support.tiny_package import TinyPackage, write_tiny_package

_PLAN = b"an engine"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


@pytest.fixture
def engine(tiny: TinyPackage) -> Path:
    """An engine in the package, as the exporters leave it."""
    directory = tiny.directory / "tensorrt-rtx" / "backbone"
    directory.mkdir(parents=True)
    (directory / "backbone.plan").write_bytes(_PLAN)
    graph = tiny.manifest.files["backbone.onnx"]
    record = TargetRecord(
        target="tensorrt-rtx",
        model_id=tiny.manifest.model_id,
        inputs={"manifest.json": digest_of(tiny.manifest.to_bytes()), "backbone.onnx": graph},
        made_with={},
        options={"variant": "backbone.onnx"},
        files={"backbone.plan": digest_of(_PLAN)},
    )
    (directory / RECORD_FILE).write_bytes(record.to_bytes())
    return directory


def _rewrite(engine: Path, **changes: object) -> None:
    record = replace(TargetRecord.read(engine), **changes)  # type: ignore[arg-type] # (any field)
    (engine / RECORD_FILE).write_bytes(record.to_bytes())


def _damages(engine: Path) -> dict[str, tuple[str, object]]:
    inputs = dict(TargetRecord.read(engine).inputs)
    other = "sha256:" + 64 * "0"
    return {
        "an empty file": (
            "is not the file that",
            lambda: (engine / "backbone.plan").write_bytes(b""),
        ),
        "no file": ("cannot be read", (engine / "backbone.plan").unlink),
        "no file listed": ("lists no file", lambda: _rewrite(engine, files={})),
        "another graph": (
            "another backbone.onnx than is there",
            lambda: _rewrite(engine, inputs={**inputs, "backbone.onnx": other}),
        ),
        "another package": (
            "another manifest.json than is there",
            lambda: _rewrite(engine, inputs={**inputs, "manifest.json": other}),
        ),
        "no package": ("was not made of", lambda: _rewrite(engine, inputs={})),
    }


@pytest.mark.parametrize(
    "name",
    [
        "an empty file",
        "no file",
        "no file listed",
        "another graph",
        "another package",
        "no package",
    ],
)
def test_an_engine_that_is_not_what_was_made_is_found(
    tiny: TinyPackage, engine: Path, name: str
) -> None:
    words, damage = _damages(engine)[name]
    damage()  # type: ignore[operator] # (a lambda)
    with pytest.raises(PackageError, match=words) as caught:
        verify_artefact(engine, package=PackageFiles.open(tiny.directory))
    again = f"pfm-edge export {tiny} --target tensorrt-rtx --out {engine} -O variant=backbone.onnx"
    assert f"{again} --overwrite makes it again" in str(caught.value)
    found = {check.name: check for check in examine_model(tiny.directory, None)}
    assert (found["artefact"].status, found["files"].status) == ("problem", "ok")
    assert found["artefact"].finding == str(caught.value)


def test_the_doctor_says_that_a_sound_engine_was_not_run(tiny: TinyPackage, engine: Path) -> None:
    (engine.parent / ".backbone.0123456789abcdef.tmp").mkdir()  # a killed build's: no artefact
    (engine.parent / ".backbone.0123456789abcdef.tmp" / RECORD_FILE).touch()
    assert artefacts_in(tiny.directory) == [engine]
    read: list[int] = []
    found = {check.name: check for check in examine_model(tiny.directory, None, report=read.append)}
    assert found["artefact"].status == "note"
    assert f"{engine}: tensorrt-rtx: 1 file, digests as" in found["artefact"].finding
    assert found["artefact"].finding.endswith("not run: no backend here")
    assert sum(read) == package_bytes(tiny.directory) > len(_PLAN)


def test_the_doctor_finds_an_engine_without_its_record(tiny: TinyPackage, engine: Path) -> None:
    (tiny.directory / "notes.txt").touch()
    (engine / RECORD_FILE).unlink()
    found = {check.name: check for check in examine_model(tiny.directory, None)}
    assert found["artefact"].status == "problem"
    assert f"--target tensorrt-rtx --out {engine}" in found["artefact"].finding
    assert found["unlisted"].status == "note"
    assert str(tiny.directory / "notes.txt") in found["unlisted"].finding
