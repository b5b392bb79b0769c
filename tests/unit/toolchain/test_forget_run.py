"""Forgetting in a training run: nothing of the class is left, nothing else is lost, ever."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy
import torch

from pfm_edge.erasing import find_classes, finish_forgetting, forget_in_run, overdue_classes
from pfm_edge.errors import RunError
from pfm_edge.registry import PackageRecord, change_registry, read_registry
from pfm_edge.training import Run, alone, in_use, load_model, read_metrics, train
from pfm_edge_runtime.errors import UnknownClassError
from tests.support.trained_run import LABELS, MODEL, entries_of, loaded, make_bundle, marks_of


def test_nothing_of_the_class_is_left(here):
    run, marks = Run.open(here / "run"), marks_of(here, 1)
    assert len(marks.rows) >= 14  # two kinds of: prompt and head row, twice; moments; the entry
    before = {name for _, name in marks.found_below(here)}
    assert before == {name for name in marks.rows if "float32" in name} | {"text"}

    report = forget_in_run(run.path, [run.class_ids[1]])

    assert marks.found_below(here) == []
    assert [each.name for each in report.checkpoints] == [
        "best.safetensors",
        "checkpoint.safetensors",
    ]
    assert report.packages == (here / "model",)
    assert not (run.path / "evaluation.json").exists()
    assert [p.name for p in here.rglob("*") if p.name.startswith(".")] == []


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_planted_copy_is_found(here, kind):
    run, marks = Run.open(here / "run"), marks_of(here, 1)
    row = safetensors.numpy.load_file(run.checkpoint)["model.prompts"][1]
    forget_in_run(run.path, [run.class_ids[1]])
    part = row.astype(kind).tobytes()[:64] if kind is np.float16 else row.tobytes()[20:84]
    (run.path / "tensorboard" / "planted").write_bytes(b"odd" + part)
    assert marks.found_below(here) == [
        ("planted", f"checkpoint.safetensors model.prompts {kind.__name__}")
    ]
    (run.path / "tensorboard" / "planted").write_bytes(b"odd" + part[:63])
    assert marks.found_below(here) == []
    (run.path / "metrics.jsonl").write_text('{"label": "person-boris"}\n')
    assert marks.found_below(here) == [("metrics.jsonl", "text")]


def test_the_old_files_are_overwritten(here):
    run = Run.open(here / "run")
    paths = (run.checkpoint, run.best, run.own_registry, here / "model" / "bundle.safetensors")
    old = [path.open("rb") for path in paths]
    forget_in_run(run.path, [run.class_ids[1]])
    for file in old:
        with file:
            assert set(file.read()) == {0}


def test_a_checkpoint_with_another_name_is_said_to_be(here):
    """A backup by hard links is somebody's: it is not overwritten, and not passed over either."""
    run = Run.open(here / "run")
    (here / "backup").mkdir()
    os.link(run.checkpoint, here / "backup" / "checkpoint")
    before = run.checkpoint.read_bytes()
    report = forget_in_run(run.path, [run.class_ids[1]])
    assert report.checkpoints[run.checkpoint].method == "unlinked"
    assert report.checkpoints[run.best].method == "overwritten"
    assert (here / "backup" / "checkpoint").read_bytes() == before


def test_what_stays_is_what_it_was(here):
    run = Run.open(here / "run")
    model, tensors, entries = load_model(run), safetensors.numpy.load_file(run.checkpoint), {}
    entries = entries_of(here)
    gone = run.class_ids[1]
    forget_in_run(run.path, [gone])
    after = Run.open(run.path)
    assert after.labels == tuple(label for label in LABELS if label != "person-boris")
    assert after.class_ids == tuple(each for each in run.class_ids if each != gone)
    smaller = load_model(after)
    kept = [0, 2, 3]
    images = torch.randn(3, 1, 8, 8)
    with torch.inference_mode():
        expected = model(images, torch.tensor(kept))[:, kept]
        assert torch.allclose(smaller(images, smaller.full_bank()), expected, atol=1e-6)
    for name, tensor in safetensors.numpy.load_file(run.checkpoint).items():
        before = tensors[name]
        rows = before[kept] if before.shape != tensor.shape else before
        assert np.array_equal(tensor, rows), name
    assert entries_of(here) == {each: rows for each, rows in entries.items() if each != gone}


def test_forgetting_twice_is_no_error_and_changes_nothing(here):
    run = Run.open(here / "run")
    gone = run.class_ids[1]
    forget_in_run(run.path, [gone])
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    assert find_classes(run.path, [gone]) == (gone,)
    report = forget_in_run(run.path, [gone])
    assert report.checkpoints == {}
    assert finish_forgetting(run.path) is None
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before


def test_every_class_may_go(here):
    run = Run.open(here / "run")
    forget_in_run(run.path, run.class_ids)
    assert Run.open(run.path).classes == ()
    assert entries_of(here) == {}
    with pytest.raises(RunError, match="0 of its classes are left"):
        load_model(Run.open(run.path))


def test_a_resume_goes_on_without_the_class(here, images):
    run = Run.open(here / "run")
    marks = marks_of(here, 1)
    forget_in_run(run.path, [run.class_ids[1]])
    config = run.config.model_copy(
        update={"training": run.config.training.model_copy(update={"max_steps": None, "epochs": 6})}
    )
    data = loaded(config)
    assert "person-boris" in data.labels
    resumed = Run.resume(run.path, config, data.labels)
    with pytest.raises(RunError, match="has 3 classes, the data 4"):
        train(resumed, data)
    kept = data.only(resumed.labels)
    assert kept.labels == resumed.labels
    assert len(kept.train) == sum(int((data.train.labels == index).sum()) for index in (0, 2, 3))
    assert kept.train.source(0) == data.train.source(0)
    assert set(kept.test.labels.tolist()) == {0, 1, 2}
    steps = config.training.epochs * -(-len(kept.train) // 8)
    assert train(resumed, kept) >= steps
    assert load_model(Run.open(run.path)).num_classes == 3
    assert marks.found_below(here) == []
    ids = {
        each for r in read_metrics(run.metrics) for each in r.get("forget_accuracy_by_class", {})
    }
    assert ids == set(run.class_ids)  # by id, which stays


def test_a_resume_needs_the_other_classes(here):
    run = Run.open(here / "run")
    forget_in_run(run.path, [run.class_ids[1]])
    for labels in (LABELS[1:], (*LABELS, "person-eva"), ("person-eva", *LABELS[2:])):
        with pytest.raises(RunError, match="with or without the 1 forgotten"):
            Run.resume(run.path, run.config, labels)


def test_a_run_of_the_version_before(here):
    """Its checkpoints do not say whose rows they hold."""
    run, marks = Run.open(here / "run"), marks_of(here, 2)
    for file in (run.checkpoint, run.best):
        metadata = json.loads(safetensors.safe_open(file, "np").metadata()["pfm_checkpoint"])
        del metadata["classes"]
        tensors = safetensors.numpy.load_file(file)
        file.write_bytes(safetensors.numpy.save(tensors, {"pfm_checkpoint": json.dumps(metadata)}))
    rows = [{"index": r.index, "class_id": r.class_id, "label": r.label} for r in run.classes]
    before = {"format": "pfm-classes/1", "classes": rows}
    run.own_registry.write_text(json.dumps(before))
    (run.path / "lock").unlink()
    bundle = here / "model" / "bundle.safetensors"
    forget_in_run(run.path, [run.class_ids[2]])
    bundle.unlink()  # no registry of that version knew of packages
    assert marks.found_below(here) == []
    assert load_model(Run.open(run.path)).num_classes == 3


def test_copies_of_checkpoints_in_the_run_lose_the_class_too(here):
    run, marks = Run.open(here / "run"), marks_of(here, 1)
    (run.path / "kept").mkdir()
    (run.path / "kept" / "early.safetensors").write_bytes(run.checkpoint.read_bytes())
    leftover = run.path / ".checkpoint.safetensors.0123456789abcdef.tmp"
    leftover.write_bytes(run.checkpoint.read_bytes())  # of a training that was killed
    export = here / ".model.0123456789abcdef.tmp"  # and of an export
    export.mkdir()
    (export / "bundle.safetensors").write_bytes(
        (here / "model" / "bundle.safetensors").read_bytes()
    )
    forget_in_run(run.path, [run.class_ids[1]])
    assert marks.found_below(here) == []


def test_a_run_in_use_is_left_alone(here):
    run = Run.open(here / "run")
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
    refused = pytest.raises(RunError, match="in use by another process")
    with in_use(run.path), in_use(run.path), refused:
        forget_in_run(run.path, [run.class_ids[1]])
    assert {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} == before
    with alone(run.path), pytest.raises(RunError, match="in use by another process"):
        forget_in_run(run.path, [run.class_ids[1]])


@pytest.mark.parametrize(
    "names", [["person-eva"], [32 * "0"], ["person-anna", "person-eva"], [""], ["\ud800"]]
)
def test_names_that_are_no_class(here, names):
    with pytest.raises(UnknownClassError, match="no class has that id or label") as caught:
        find_classes(here / "run", names)
    assert "eva" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_that_share_a_registry(here, images, tmp_path):
    """A forget in one reaches the packages of both; the other must forget, too."""
    registry = tmp_path / "registry.json"
    first = Run.open(here / "run")
    config = first.config.model_copy(update={"registry": registry})
    second = Run.create(tmp_path / "second", config, LABELS)
    third = Run.create(tmp_path / "third", config, LABELS)
    assert second.class_ids == third.class_ids
    train(third, loaded(config))
    package = tmp_path / "of-third"
    package.mkdir()
    bundle = make_bundle(third, load_model(third)).to_bytes()
    (package / "bundle.safetensors").write_bytes(bundle)
    record = PackageRecord(package, MODEL)
    change_registry(registry, lambda known: known.with_export(record)[0])
    gone = third.class_ids[1]

    report = forget_in_run(second.path, find_classes(second.path, ["person-boris"]))

    assert report.packages == (package,)
    assert b"person-boris" not in registry.read_bytes()
    assert read_registry(registry).forgotten == (gone,)
    with pytest.raises(RunError, match=f"lists as forgotten; pfm-edge forget {third.path}"):
        load_model(third)
    assert overdue_classes(third.path) == (gone,)
    forget_in_run(third.path, [gone])
    load_model(Run.open(third.path))
    again = Run.create(tmp_path / "fourth", config, LABELS)
    assert again.class_ids[1] != gone
    assert again.class_ids[0] == third.class_ids[0]


def test_an_older_copy_of_a_shared_registry_does_not_bring_the_class_back(here, tmp_path):
    registry = tmp_path / "registry.json"
    config = Run.open(here / "run").config.model_copy(update={"registry": registry})
    run = Run.create(tmp_path / "second", config, LABELS)
    backup = registry.read_bytes()
    forget_in_run(run.path, [run.class_ids[1]])
    registry.write_bytes(backup)
    assert finish_forgetting(run.path) is not None
    assert read_registry(registry).forgotten == (run.class_ids[1],)
    assert b"person-boris" not in registry.read_bytes()
