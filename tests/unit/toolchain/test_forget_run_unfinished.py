"""Forgets that a kill, a failing disk or an unreadable file stopped: the next one finishes them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pfm_edge.erasing import finish_forgetting, forget_in_run, overdue_classes
from pfm_edge.errors import RunError
from pfm_edge.registry import PackageRecord, change_registry, read_registry
from pfm_edge.training import Run, load_model, train
from pfm_edge_runtime.errors import PfmEdgeError, StorageError
from tests.support.failing_disk import faults_of
from tests.support.killed_forget import copied
from tests.support.trained_run import LABELS, MODEL, entries_of, loaded, marks_of


class TestUnfinished:
    def interrupted(self, here, monkeypatch):
        run = Run.open(here / "run")
        with monkeypatch.context() as patch:
            patch.setattr("pfm_edge.erasing._run.drop_classes", self.killed)
            with pytest.raises(KeyboardInterrupt):
                forget_in_run(run.path, [run.class_ids[1]])
        return run

    @staticmethod
    def killed(*_):
        raise KeyboardInterrupt

    def test_nothing_uses_the_run_until_it_is_finished(self, here, images, monkeypatch):
        stale = self.interrupted(here, monkeypatch)
        for run in (stale, Run.open(stale.path)):
            for use in (load_model, lambda run: train(run, loaded(run.config).only(run.labels))):
                with pytest.raises(RunError, match=f"pfm-edge forget {run.path} finishes it"):
                    use(run)
        with pytest.raises(RunError, match="is not finished"):
            Run.create(stale.path, stale.config, LABELS, overwrite=True)

    def test_it_is_finished_by_the_next(self, here, monkeypatch):
        marks = marks_of(here, 1)
        run = self.interrupted(here, monkeypatch)
        assert marks.found_below(here) != []
        assert overdue_classes(run.path) == (run.class_ids[1],)
        assert finish_forgetting(run.path).class_ids == (run.class_ids[1],)
        assert marks.found_below(here) == []
        assert overdue_classes(run.path) == ()
        load_model(Run.open(run.path))

    @pytest.mark.parametrize("what", ["checkpoint", "bundle"])
    def test_what_cannot_be_read_is_named_and_waits(self, here, what):
        run = Run.open(here / "run")
        path = run.checkpoint if what == "checkpoint" else here / "model" / "bundle.safetensors"
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(RunError) as caught:
            forget_in_run(run.path, [run.class_ids[1]])
        message = str(caught.value)
        assert "forgotten, but not erased everywhere yet" in message
        assert str(path) in message
        assert "remove" in message
        assert "\n" not in message
        path.unlink()
        forget_in_run(run.path, [])
        assert read_registry(run.own_registry).unfinished == ()

    def test_one_package_that_cannot_be_read_does_not_keep_the_others(self, here):
        run = Run.open(here / "run")
        (here / "damaged").mkdir()
        (here / "damaged" / "bundle.safetensors").write_bytes(b"no bundle")
        records = [PackageRecord(here / name, MODEL) for name in ("damaged", "model")]
        change_registry(run.own_registry, lambda known: replace(known, packages=tuple(records)))
        with pytest.raises(RunError, match="damaged"):
            forget_in_run(run.path, [run.class_ids[1]])
        assert run.class_ids[1] not in entries_of(here)

    def test_a_package_that_has_moved_is_reported(self, here):
        run = Run.open(here / "run")
        (here / "model").rename(here / "elsewhere")
        report = forget_in_run(run.path, [run.class_ids[1]])
        assert (report.packages, report.missing) == ((), (here / "model",))
        (here / "elsewhere").rename(here / "model")
        assert forget_in_run(run.path, []).packages == (here / "model",)
        assert run.class_ids[1] not in entries_of(here)


@pytest.mark.parametrize("trained", ["full"], indirect=True)
def test_every_failing_write_leaves_it_whole_or_forgotten(here, tmp_path):
    def copy(name):
        return copied(here, tmp_path / name)

    gone, index = Run.open(here / "run").class_ids[1], 1
    counted = copy("counted")
    faults = faults_of(lambda: forget_in_run(counted, [gone]))
    assert len(faults) > 50
    for fault in faults:
        if fault.call == "open":
            continue  # reading is not the disk refusing a write
        run, marks = copy(str(fault)), marks_of(here, index)
        with fault.injected(), pytest.raises(PfmEdgeError) as caught:
            forget_in_run(run, [gone])
        assert "\n" not in str(caught.value)
        if isinstance(caught.value, StorageError):
            assert Run.open(run).class_ids[index] == gone
            load_model(Run.open(run))  # as it was
        else:
            assert "forgotten, but not erased everywhere yet" in str(caught.value)
            assert gone in read_registry(run / "classes.json").forgotten
        forget_in_run(run, [gone])
        assert marks.found_below(run.parent) == []
        assert load_model(Run.open(run)).num_classes == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("trained", ["full"], indirect=True)
def test_killed_anywhere_it_converges(trained, tmp_path):
    gone = Run.open(trained / "run").class_ids[1]
    command = [sys.executable, "-m", "tests.support.killed_forget", trained, tmp_path, gone]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
    deaths = sorted(tmp_path.iterdir())
    assert len(deaths) > 40
    marks, rows = marks_of(trained, 1), entries_of(trained)
    seen = set()
    for death in deaths:
        run = death / "run"
        registry = read_registry(run / "classes.json")
        committed = gone in registry.forgotten
        seen.add((committed, bool(registry.unfinished)))
        if not committed:
            assert load_model(Run.open(run)).num_classes == 4
        elif registry.unfinished:
            with pytest.raises(RunError, match="finishes it"):
                load_model(Run.open(run))
        forget_in_run(run, [gone])
        assert marks.found_below(death) == [], death.name
        assert load_model(Run.open(run)).num_classes == 3
        assert entries_of(death) == {each: row for each, row in rows.items() if each != gone}
    assert seen == {(False, False), (True, True), (True, False)}
