"""The note of an export in the registry: gone again when nothing came of it, and only then."""

from pathlib import Path

import pytest

import pfm_edge.publishing._export as exporting
from pfm_edge.config import load_config
from pfm_edge.errors import RunError
from pfm_edge.publishing import export_artefact, export_run
from pfm_edge.publishing._note import Note
from pfm_edge.registry import KnownClass, PackageRecord, change_registry, read_registry
from pfm_edge.training import Run
from pfm_edge_exporters.targets import find_target
from pfm_edge_runtime.errors import StorageError
from tests.support.tiny_package import MODEL_ID
from tests.support.wide_package import LABELS, WidePackage, write_wide_package

CONFIG = """
data: {name: imagefolder, root: images, workers: 0}
backbone:
  model: vit_tiny_patch16_224
  arguments: {img_size: 8, patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2, in_chans: 1}
"""


@pytest.fixture
def wide(tmp_path: Path) -> WidePackage:
    return write_wide_package(tmp_path / "exported" / "model")


@pytest.fixture
def run(wide: WidePackage, tmp_path: Path) -> Run:
    """A run that the package says it came from."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    made = Run.create(tmp_path / "run", load_config(tmp_path / "config.yaml", []), ["a", "b"])
    record = PackageRecord(wide.directory, MODEL_ID)
    classes = [KnownClass(*each) for each in zip(wide.ids, LABELS, strict=True)]
    change_registry(made.registry, lambda known: known.with_export(record)[0].with_classes(classes))
    return made


def noted(run: Run) -> list[Path]:
    return [each.path for each in read_registry(run.registry).packages]


def refuse(*_given: object, **_how: object) -> None:
    raise StorageError("the disk is full")


def triton(wide: WidePackage, run: Run, out: Path) -> Path:
    target = find_target("triton")
    options = target.options()
    return export_artefact(wide.directory, target, options, out=out, run=run, overwrite=True).path


def test_an_artefact_that_fails_leaves_no_note_and_no_directory(wide, run, tmp_path, monkeypatch):
    before = noted(run)
    with monkeypatch.context() as patch:
        patch.setattr("pfm_edge_runtime.store._publish", refuse)
        with pytest.raises(StorageError):
            triton(wide, run, tmp_path / "made" / "repository")
    assert noted(run) == before
    assert not (tmp_path / "made").exists()


def test_an_artefact_that_was_there_stays_noted(wide, run, tmp_path, monkeypatch):
    made = triton(wide, run, tmp_path / "repository")
    monkeypatch.setattr("pfm_edge_runtime.store._publish", refuse)
    with pytest.raises(StorageError):
        triton(wide, run, tmp_path / "repository")
    made.rename(tmp_path / "moved")  # its note is how a person learns that it is elsewhere
    with pytest.raises(StorageError):
        triton(wide, run, tmp_path / "repository")
    assert noted(run) == [wide.directory, made]


def test_a_package_that_fails_leaves_no_note(run, tmp_path, monkeypatch):
    """Also where the registry cannot be asked any more: that error is not the one to tell."""
    before, out = noted(run), tmp_path / "made" / "model"

    def fails(source, out, options, *, bundle, progress):
        bundle.note(MODEL_ID)
        assert noted(run) == [*before, out]
        raise StorageError("the disk is full")

    class Bundles:
        def __init__(self, entries, take_place, signers):
            self.note = take_place

    for name in ("load_model", "class_entries"):
        monkeypatch.setattr(exporting, name, lambda *_: [])
    monkeypatch.setattr(exporting.GraphRequest, "prepare", lambda *_, **__: (None, None))
    monkeypatch.setattr(exporting, "bundle_factory", Bundles)
    monkeypatch.setattr(exporting, "export_package", fails)
    with pytest.raises(StorageError, match="full"):
        export_run(run, out)
    assert noted(run) == before
    assert read_registry(run.registry).places[MODEL_ID] == (1, 2)  # a place is never given twice
    leftover = tmp_path / "made" / ".model.0123456789abcdef.tmp"
    leftover.mkdir(parents=True)  # of a process that was killed: a forget must look there
    with pytest.raises(StorageError, match="full"):
        export_run(run, out)
    assert noted(run) == [*before, out]


def test_a_note_that_another_export_took_back_is_made_again(run, tmp_path):
    record = PackageRecord(tmp_path / "model", MODEL_ID)
    note = Note(run.registry)
    with note.withdrawn_on_failure():
        note.add(record, lambda known: known.with_artefact(record))
        change_registry(run.registry, lambda known: known.without_artefact(record.path))
        assert record in note.read_again().packages
    assert record.path in noted(run)


def test_a_registry_that_refuses_leaves_its_own_error(wide, run, tmp_path):
    change_registry(run.registry, lambda known: known.without([wide.ids[0]]))
    with pytest.raises(RunError, match="a class in it was forgotten"):
        triton(wide, run, tmp_path / "repository")
    assert noted(run) == [wide.directory]


def test_a_package_with_an_engine_in_it_is_not_replaced(wide, run):
    engine = wide.directory / "tensorrt-rtx" / "backbone"
    engine.mkdir(parents=True)
    (engine / "target.json").write_bytes(b"{}")
    with pytest.raises(StorageError, match=f"{engine} was made of the package") as caught:
        export_run(run, wide.directory, overwrite=True)
    assert "\n" not in str(caught.value)
    assert (engine / "target.json").exists()


def test_what_another_export_left_keeps_no_note(wide, run, tmp_path, monkeypatch):
    before = noted(run)
    monkeypatch.setattr("pfm_edge_runtime.store._publish", refuse)
    (tmp_path / ".model.v2.0123456789abcdef.tmp").mkdir()
    with pytest.raises(StorageError):
        triton(wide, run, tmp_path)  # its model is named as the package
    assert noted(run) == before
