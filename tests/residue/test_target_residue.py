"""What is left of a class in a Triton repository and an adapter: nothing, whatever was killed."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import pfm_edge_exporters.targets._publish as publishing
from pfm_edge.cli import main
from pfm_edge.config import load_config
from pfm_edge.erasing import redact
from pfm_edge.registry import KnownClass, PackageRecord, change_registry, read_registry
from pfm_edge.training import Run
from pfm_edge_exporters import discard_package
from pfm_edge_exporters.ort_adapter import read_adapter
from pfm_edge_exporters.targets import TargetRecord, export_target, find_target
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import PackageError, StorageError
from pfm_edge_runtime.store import clear_unfinished
from tests.support.byte_windows import Marks
from tests.support.failing_disk import faults_of
from tests.support.tiny_package import MODEL_ID
from tests.support.wide_package import LABELS, WidePackage, rows_of, write_wide_package

GONE = 2
HOLDING = ("triton", "ort-adapter")


@pytest.fixture
def wide(tmp_path: Path) -> WidePackage:
    return write_wide_package(tmp_path / "exported" / "model")


def marks(index: int = GONE) -> Marks:
    rows = {name: row for name, row in rows_of(index).items() if row.size > 1}
    return Marks.of(rows, [LABELS[index]])


def make(wide: WidePackage, name: str, out: Path, **how: object) -> Path:
    target = find_target(name)
    return export_target(wide.directory, target, target.options(), out=out, **how).path


def order(wide: WidePackage) -> list[int]:
    return sorted(range(len(LABELS)), key=lambda index: wide.ids[index])


@pytest.mark.parametrize("name", HOLDING)
def test_a_class_goes_and_the_others_answer_as_before(wide, tmp_path, name):
    made = make(wide, name, tmp_path / "made")
    (made / "config.pbtxt").write_bytes(b"# by hand\n")
    (made / "7").mkdir()  # another version, copied there by hand
    shutil.copy(made / "labels.txt", made / "7" / "labels.txt")
    assert redact(made, {wide.ids[GONE]})
    assert marks().found_below(tmp_path / "made") == []
    assert marks(0).found_below(tmp_path / "made")  # so the search would have found it
    kept = [index for index in order(wide) if index != GONE]
    assert TargetRecord.read(made).classes == tuple(wide.ids[index] for index in kept)
    assert (made / "labels.txt").read_text().splitlines() == [LABELS[index] for index in kept]
    assert (made / "config.pbtxt").read_bytes() == b"# by hand\n"
    assert not (made / "7").exists()
    expected = np.stack([rows_of(index)["class_weight"] for index in kept])
    if name == "triton":
        (path,) = made.glob("*/model.onnx")
        image = np.zeros((1, 1, 4, 4), np.float32)
        outputs = load_backend("onnxruntime")(path).run(image, {})
        bias = np.array([rows_of(index)["class_bias"] for index in kept])
        shift = np.mean([rows_of(index)["prompt_values"] for index in kept], axis=(0, 1))
        assert np.allclose(outputs.logits, shift @ expected.T + bias, atol=1e-4)
    else:
        assert np.array_equal(
            read_adapter(made / "classes.onnx_adapter")[0]["class_weight"], expected
        )
    before = sorted(made.rglob("*"))
    redact(made, {wide.ids[GONE]})  # again is no error, and does nothing
    assert sorted(made.rglob("*")) == before


def put(path: Path, made: Callable[[Path], object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made(path)
    return path


@pytest.mark.parametrize("name", HOLDING)
def test_what_may_keep_the_class_stops_the_forget_until_it_is_gone(wide, tmp_path, name):
    made = make(wide, name, tmp_path / "made" / "digits")
    other = make(wide, name, tmp_path / "made" / "known")  # noted too, so no copy
    here = made.parent
    (file,) = [*made.glob("*/model.onnx"), *made.glob("*.onnx_adapter")]
    for path, how, message in (
        (made / "copy.onnx", partial(shutil.copy, file), "was not written by an export"),
        (made / "old" / "labels.txt", partial(shutil.copy, made / "labels.txt"), "move it"),
        (made / "latest", lambda path: path.symlink_to(file.parent), "is a symbolic link"),
        (made / "9", lambda path: path.symlink_to(file.parent), "is a symbolic link"),
        (here / "backup", partial(shutil.copytree, made), "no registry knows of it"),
        (here / "b" / "1" / "model.onnx", partial(shutil.copy, file), "is a copy of a file"),
        (here / "b" / "1" / "x", lambda path: os.link(file, path), "is a copy of a file"),
        (here / "labels.old", partial(shutil.copy, made / "labels.txt"), "is a copy of a file"),
    ):
        before = marks().found_below(tmp_path / "made")
        put(path, how)
        with pytest.raises(PackageError, match=f"{path} .*{message}") as caught:
            redact(made, {wide.ids[GONE]}, noted=[made, other])
        assert "\n" not in str(caught.value)
        assert set(marks().found_below(tmp_path / "made")) >= set(before)  # nothing changed
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (here / "unrelated" / "1").mkdir(parents=True)
    (here / "unrelated" / "1" / "model.onnx").write_bytes(b"somebody's")
    (here / "link").symlink_to(made)  # leads to what has lost the class
    for each in (made, other):
        redact(each, {wide.ids[GONE]}, noted=[made, other])
    assert marks().found_below(tmp_path / "made") == []


@pytest.mark.parametrize("name", HOLDING)
def test_the_last_class_takes_everything_with_it(wide, tmp_path, name):
    made = make(wide, name, tmp_path / "made")
    redact(made, set(wide.ids))
    assert [each.name for each in made.iterdir()] == ["target.json"]
    assert TargetRecord.read(made).classes == ()
    for index in range(len(LABELS)):
        assert marks(index).found_below(tmp_path / "made") == []


class Killed(BaseException):
    """Stands for the end of the process."""


def dies(*paths: object) -> None:
    raise Killed


def test_what_a_killed_forget_left_is_erased_by_the_next(wide, tmp_path, monkeypatch):
    for name in HOLDING:
        made = make(wide, name, tmp_path / "made" / name)
        with monkeypatch.context() as patch:
            patch.setattr(publishing, "erase_tree", dies)  # the new one is in its place
            with pytest.raises(Killed):
                redact(made, {wide.ids[GONE]})
        assert marks().found_below(made) == []
        assert marks().found_below(tmp_path / "made")
        redact(made, {wide.ids[GONE]})
        assert marks().found_below(tmp_path / "made") == []
        assert marks(0).found_below(made)


def test_what_a_killed_export_left_is_erased_by_the_next_forget(wide, tmp_path, monkeypatch):
    for name in HOLDING:
        out = tmp_path / "made" / name
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", dies)  # the last step; and nobody cleans up afterwards
            patch.setattr(publishing, "erase_tree", dies)
            with pytest.raises(Killed):
                make(wide, name, out)
        assert marks().found_below(tmp_path / "made")
        redact(out / "model" if name == "triton" else out, {wide.ids[GONE]})
        assert [each for each in (tmp_path / "made").rglob("*") if each.is_file()] == []


def test_a_forget_leaves_a_live_export_to_another_name_alone(wide, tmp_path, monkeypatch):
    target = find_target("ort-adapter")
    make_draft = type(target).make

    def meanwhile(self, job):
        draft = make_draft(self, job)

        def fill(staging: Path) -> None:
            draft.fill(staging)
            assert not redact(tmp_path / "made" / "digits", {wide.ids[GONE]})

        return type(draft)(fill, draft.variant, draft.made_with, draft.facts)

    monkeypatch.setattr(type(target), "make", meanwhile)
    made = make(wide, "ort-adapter", tmp_path / "made" / "digits.v2")
    assert marks().found_below(made)


def test_an_artefact_that_was_left_with_a_packages_name_is_overwritten(wide, tmp_path):
    made = make(wide, "ort-adapter", tmp_path / "made")
    left = made.rename(tmp_path / ".model.0123456789abcdef.tmp")
    with (left / "classes.onnx_adapter").open("rb") as file:
        clear_unfinished(tmp_path / "model", discard_package)
        assert not left.exists()
        assert not any(file.read())


@pytest.mark.parametrize("name", HOLDING)
def test_a_damaged_artefact_stops_the_forget(wide, tmp_path, name):
    made = make(wide, name, tmp_path / "made")
    (file,) = [*made.glob("*/model.onnx"), *made.glob("*.onnx_adapter")]
    for damage in (
        lambda: file.write_bytes(b"\xff\xff"),
        lambda: (made / "labels.txt").write_text("one\n"),
        (made / "labels.txt").unlink,
        lambda: ((made / "labels.txt").symlink_to(file), None),
        lambda: (made / "target.json").write_text("{}"),
    ):
        before = file.read_bytes()
        damage()
        with pytest.raises(PackageError) as caught:
            redact(made, {wide.ids[GONE]})
        assert "\n" not in str(caught.value)
        assert not any(label in str(caught.value) for label in LABELS)
        file.write_bytes(before)


CONFIG = """
data: {name: imagefolder, root: images, workers: 0}
backbone:
  model: vit_tiny_patch16_224
  arguments: {img_size: 8, patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2, in_chans: 1}
"""


@pytest.fixture
def run(wide: WidePackage, tmp_path: Path) -> Run:
    """A run that the package says it came from."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    made = Run.create(tmp_path / "run", load_config(tmp_path / "config.yaml", []), ["a", "b"])
    record = PackageRecord(wide.directory, MODEL_ID)
    classes = [KnownClass(*each) for each in zip(wide.ids, LABELS, strict=True)]
    change_registry(made.registry, lambda known: known.with_export(record)[0].with_classes(classes))
    return made


def test_a_forget_of_the_run_reaches_both(wide, run, tmp_path, capsys):
    for name in HOLDING:
        out = tmp_path / "made" / name
        arguments = ["export", str(wide.directory), "--target", name, "--out", str(out)]
        assert main([*arguments, "--run", str(run.path)]) == 0
        assert f"pfm-edge forget {run.path} reaches it" in " ".join(capsys.readouterr().err.split())
    roots = (tmp_path / "made", wide.directory, run.path)
    assert len(marks().found_below(*roots)) > 4
    assert main(["forget", str(run.path), "--class", wide.ids[GONE], "--yes", "--json"]) == 0
    assert marks().found_below(*roots) == []
    places = [str(each.path) for each in read_registry(run.registry).packages]
    assert places == [
        str(wide.directory),
        str(tmp_path / "made" / "triton" / "model"),
        str(tmp_path / "made" / "ort-adapter"),
    ]


@pytest.mark.parametrize("engine", [False, True])
def test_the_way_on_after_a_forget_keeps_graphs_and_engines(wide, run, capsys, engine):
    if engine:
        (wide.directory / "tensorrt" / "backbone").mkdir(parents=True)
        (wide.directory / "tensorrt" / "backbone" / "target.json").write_text("{}")
    assert main(["forget", str(run.path), "--class", wide.ids[GONE], "--yes"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    again = f"pfm-edge export {run.path} --out {wide.directory} --overwrite"
    published = f"pfm-edge ota publish REPOSITORY {wide.directory}"
    assert 0 < said.index(published) < said.index("the options that it was") < said.index(again)
    assert ("move its engines out first" in said) == engine


def test_what_was_forgotten_is_not_exported_again(wide, run, tmp_path, capsys):
    out = tmp_path / "made"
    arguments = ["export", str(wide.directory), "--target", "ort-adapter", "--out", str(out)]
    change_registry(run.registry, lambda known: known.without([wide.ids[GONE]]))
    assert main([*arguments, "--run", str(run.path)]) == 1
    assert "a class in it was forgotten" in capsys.readouterr().err
    assert not out.exists()
    assert main(arguments) == 1
    assert "name the run whose forget shall reach them" in capsys.readouterr().err
    other = Run.create(tmp_path / "other", load_config(tmp_path / "config.yaml", []), ["a"])
    assert main([*arguments, "--run", str(other.path)]) == 1
    assert "was not exported from" in capsys.readouterr().err
    assert not out.exists()


def test_what_another_run_forgets_meanwhile_is_taken_out(wide, run, tmp_path, capsys, monkeypatch):
    """Its forget came before the artefact was there, and after the artefact was announced."""
    publish, out = publishing.publish, tmp_path / "made"

    def overtaken(*given, **how):
        change_registry(run.registry, lambda known: known.without([wide.ids[GONE]]))
        return publish(*given, **how)

    monkeypatch.setattr("pfm_edge_exporters.targets._export.publish", overtaken)
    arguments = ["export", str(wide.directory), "--target", "ort-adapter", "--out", str(out)]
    assert main([*arguments, "--run", str(run.path)]) == 1
    assert "a class in it was forgotten" in capsys.readouterr().err
    assert marks().found_below(out) == []
    assert marks(0).found_below(out)


def is_whole(made: Path) -> bool:
    files = TargetRecord.read(made).files
    return all(digest_of((made / name).read_bytes()) == each for name, each in files.items())


@pytest.mark.parametrize("forget", [False, True], ids=["export", "forget"])
def test_a_failing_disk_leaves_a_whole_artefact_and_the_next_forget_cleans_up(
    wide, tmp_path, forget
):
    def operation() -> None:
        if forget:
            redact(made, {wide.ids[GONE]})
        else:
            make(wide, "triton", made.parent, overwrite=True)

    made = make(wide, "triton", tmp_path / "counted")
    faults = faults_of(operation)
    for fault in faults:
        made = make(wide, "triton", tmp_path / str(fault))
        with fault.injected(), pytest.raises((StorageError, PackageError)) as caught:
            operation()
        assert "\n" not in str(caught.value)
        assert is_whole(made)
        redact(made, {wide.ids[GONE]})
        assert marks().found_below(tmp_path / str(fault)) == []
        assert [each.name for each in made.parent.iterdir()] == ["model"]
    assert len(faults) > 15
