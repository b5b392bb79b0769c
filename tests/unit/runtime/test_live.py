"""A running model follows the device's memory: at its next call, and without waiting for a disk."""

import errno
import logging
import os
import threading
from pathlib import Path
from typing import cast
from unittest import mock

import pytest

from pfm_edge_runtime._layout import ClassLayout
from pfm_edge_runtime._live import LiveClasses
from pfm_edge_runtime._snapshot import Held, Snapshot
from pfm_edge_runtime.bundle import VerifiedBundle
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import PfmEdgeError, StateUnreadableError, StorageError
from pfm_edge_runtime.forgetting import PendingForget, forget_classes
from pfm_edge_runtime.opening import install_bundle, open_model
from pfm_edge_runtime.state import DeviceState, Memory
from tests.support.failing_disk import Fault, faults_of
from tests.support.tiny_package import (
    CLASS_INPUTS,
    LABELS,
    TinyPackage,
    build_bundle,
    quarter,
    write_tiny_package,
)

ROSE = LABELS.index("rose")
LAYOUT = ClassLayout(CLASS_INPUTS)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


@pytest.fixture
def model(tiny: TinyPackage) -> Classifier:
    return Classifier.open(tiny.directory, threads=1)


def _labels(model: Classifier) -> list[str]:
    return sorted(each.label for each in model.classes)


def test_takes_verified_bundles_only(tiny: TinyPackage) -> None:
    with pytest.raises(TypeError, match="verified"):
        Snapshot.of(cast("VerifiedBundle", tiny.bundle), LAYOUT)


def test_calls_go_on_while_a_forget_waits_for_the_disk(
    model: Classifier, tiny: TinyPackage
) -> None:
    """At each fsync of a forget: calls are answered, and after the first never with the class."""
    waiting, go_on = threading.Semaphore(0), threading.Semaphore(0)
    real = os.fsync

    def slow(descriptor: int) -> None:
        waiting.release()
        assert go_on.acquire(timeout=30)
        real(descriptor)

    with mock.patch.object(os, "fsync", slow):
        thread = threading.Thread(target=model.forget, args=("rose",))
        thread.start()
        syncs = 0
        while thread.is_alive():
            if not waiting.acquire(timeout=0.05):
                continue
            found = model.predict(quarter(ROSE))
            syncs += 1
            assert syncs == 1 or found.label != "rose"
            go_on.release()
        thread.join(30)
    assert syncs >= 6
    assert "rose" not in _labels(model)


def test_a_tombstone_that_was_taken_back_was_never_there(
    model: Classifier, tiny: TinyPackage
) -> None:
    with Fault("fsync", 1).injected(errno.EIO), pytest.raises(StorageError, match="nothing"):
        model.forget("rose")
    assert model.predict(quarter(ROSE)).label == "rose"
    assert _labels(model) == sorted(LABELS)


def test_a_tombstone_that_a_call_has_seen_and_that_was_taken_back(
    model: Classifier, tiny: TinyPackage, device_state: Path
) -> None:
    ledger, real = device_state / "ledger.jsonl", os.fsync
    size = ledger.stat().st_size

    def failing(descriptor: int) -> None:
        if ledger.stat().st_size == size:
            real(descriptor)
            return
        # Seen before it is confirmed: to refuse a class too early does no harm.
        assert model.predict(quarter(ROSE)).label != "rose"
        raise OSError(errno.EIO, "Input/output error")

    with (
        mock.patch.object(os, "fsync", failing),
        pytest.raises(StorageError, match="nothing changed"),
    ):
        model.forget("rose")
    assert ledger.stat().st_size == size
    assert model.predict(quarter(ROSE)).label == "rose"


def test_whatever_the_disk_refuses_a_class_is_kept_or_refused(tmp_path: Path) -> None:
    """Each call of a forget fails once: nothing changed, or refused until the next open erases."""

    def prepare(directory: Path) -> tuple[TinyPackage, Classifier, Path]:
        tiny = write_tiny_package(directory / "model")
        state = directory / "state"
        return tiny, Classifier.open(tiny.directory, state=state, threads=1), state

    _, model, _ = prepare(tmp_path / "counted")
    faults = faults_of(lambda: model.forget("rose"))
    seen = set()
    for fault in faults:
        tiny, model, state = prepare(tmp_path / str(fault))
        rose = tiny.class_id("rose")
        with fault.injected():
            try:
                erased = model.forget("rose").erased
            except PfmEdgeError:
                seen.add("kept")
                assert model.predict(quarter(ROSE)).label == "rose", fault
                assert model.forget("rose").erased, fault
                continue
        seen.add("erased" if erased else "refused")
        assert rose not in model.predict(quarter(ROSE)).scores, fault
        opened = open_model(tiny.directory, state=state)
        assert opened.problem is None, fault
        assert opened.state.memory.erased(rose) is not None, fault
        assert model.forget(rose).receipt is not None, fault
        assert sorted(path.name for path in tiny.directory.iterdir()) == [
            "backbone.onnx",
            "bundle.safetensors",
            "golden.safetensors",
            "manifest.json",
        ], fault
    assert {"kept", "refused"} <= seen


def test_a_ledger_that_cannot_be_read_right_after_the_commit(
    model: Classifier, device_state: Path
) -> None:
    real, ledger = PendingForget.commit, device_state / "ledger.jsonl"

    def commit(pending: PendingForget) -> None:
        real(pending)
        ledger.rename(ledger.with_suffix(".away"))

    with mock.patch.object(PendingForget, "commit", commit):
        assert not model.forget("rose").erased
    assert model.predict(quarter(ROSE)).label != "rose"
    ledger.with_suffix(".away").rename(ledger)
    assert _labels(model) == sorted(set(LABELS) - {"rose"})


def test_the_bundle_that_was_opened_is_zeroed_once_it_is_copied(tiny: TinyPackage) -> None:
    opened = open_model(tiny.directory)
    tensors = opened.bundle.tensors
    live = LiveClasses(opened, tiny.manifest.variants[0])
    assert not any(tensor.any() for tensor in tensors.values())
    with live.use() as snapshot:
        assert snapshot.tensors["class_weight"].any()


def test_no_call_slips_in_between_the_ledger_and_the_exchange(
    model: Classifier, tiny: TinyPackage
) -> None:
    forget_classes(tiny.directory, ["rose"])
    device, read, go_on = model._live._device, threading.Event(), threading.Event()
    real, found = device.refresh, []

    def refresh() -> Memory:
        memory = real()
        read.set()
        assert go_on.wait(30)
        return memory

    def call() -> None:
        found.append(model.predict(quarter(ROSE)).label)

    threads = [threading.Thread(target=call) for _ in range(2)]
    with mock.patch.object(device, "refresh", refresh):
        threads[0].start()
        assert read.wait(30)  # the ledger is at rest again, the tensors are the old ones
        threads[1].start()
        threads[1].join(0.3)
        go_on.set()
        for each in threads:
            each.join(30)
    assert len(found) == len(threads)
    assert "rose" not in found


def test_an_install_reaches_the_next_call(model: Classifier, tiny: TinyPackage) -> None:
    newer = build_bundle(tiny.manifest.to_bytes(), sequence=2)
    newer = newer.without([tiny.class_id("daisy")])
    install_bundle(tiny.directory, newer.to_bytes())
    assert _labels(model) == sorted(set(LABELS) - {"daisy"})
    assert model.predict(quarter(ROSE)).label == "rose"


def test_a_forget_in_another_model_of_the_device(model: Classifier, tmp_path: Path) -> None:
    # Tombstones hold for every model: the two packages know the same class.
    other = write_tiny_package(tmp_path / "other")
    forget_classes(other.directory, ["rose"])
    assert "rose" not in _labels(model)


def test_a_memory_that_is_damaged_meanwhile_changes_nothing(
    model: Classifier, device_state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.forget("rose")
    ledger = device_state / "ledger.jsonl"
    ledger.write_bytes(b"damaged\n" + ledger.read_bytes())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert model.predict(quarter(ROSE)).label != "rose"
    assert caplog.text.count("goes on with what it knows") == 1


def test_no_answer_is_better_than_one_by_a_memory_that_cannot_be_read(
    model: Classifier, tiny: TinyPackage, device_state: Path
) -> None:
    forget_classes(tiny.directory, ["rose"])
    with Fault("open", 1).injected(errno.EMFILE), pytest.raises(StateUnreadableError):
        model.predict(quarter(ROSE))
    assert model.predict(quarter(ROSE)).label != "rose"


def test_old_tensors_are_zeroed_after_the_last_call_that_reads_them(tiny: TinyPackage) -> None:
    opened = open_model(tiny.directory)
    first = Snapshot.of(opened.bundle, LAYOUT)
    second = first.without({tiny.class_id("rose")}, LAYOUT)
    held = Held(first)
    with held.use() as one, held.use() as two:
        assert one is two is first
        held.exchange(second)
        with held.use() as three:
            assert three is second
        assert first.tensors["class_weight"].any()
    assert not any(tensor.any() for tensor in first.tensors.values())
    assert second.tensors["class_weight"].any()
    third = second.without((), LAYOUT)
    held.exchange(third)
    assert not second.tensors["class_weight"].any()


def test_eight_threads_and_a_forget_in_another_process(
    model: Classifier, tiny: TinyPackage, device_state: Path
) -> None:
    """No call is lost or spoilt, and none that begins after the forget knows the class."""
    import subprocess
    import sys

    done, stop = threading.Event(), threading.Event()
    errors: list[BaseException] = []
    late: list[bool] = []
    rose = tiny.class_id("rose")

    def serve() -> None:
        while not stop.is_set():
            was_done = done.is_set()
            try:
                found = model.predict(quarter(ROSE))
            except BaseException as error:  # a thread's failure must reach the test
                errors.append(error)
                return
            if was_done:
                late.append(rose in found.scores)

    threads = [threading.Thread(target=serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    subprocess.run(
        [sys.executable, "-m", "pfm_edge_runtime.cli", "forget", str(tiny), rose],
        check=True,
        capture_output=True,
        timeout=120,
    )
    done.set()
    while len(late) < 64 and not errors:
        stop.wait(0.01)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert not any(late)
    assert DeviceState.open(device_state).memory.erased(rose) is not None
