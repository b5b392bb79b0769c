"""What may be wrong with a repository, a device or its disk, and what an update makes of it."""

import errno
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import FetchError, StateMissingError, StorageError, UpdateBusyError
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.opening import open_model
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.ota.channel import Channel, Rollout
from pfm_edge_runtime.ota.forget_list import ForgetList, ForgetRow
from pfm_edge_runtime.ota.names import FORGET_FILE, channel_target
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.report import UpdateReport
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState, RepositoryTrust
from tests.support.broken_disk import broken, calls_of
from tests.support.ota_server import FileServer, refusing
from tests.support.tiny_package import (
    LABELS,
    TinyPackage,
    write_tiny_package,
)
from tests.support.tuf_repository import NOW, Publisher, clock
from tests.unit.runtime.ota.conftest import Update, told_of


def labels(tiny: TinyPackage) -> set[str]:
    return {each.label for each in Classifier.open(tiny.directory, threads=1).classes}


# --- what may be wrong


@pytest.mark.parametrize("rollout", [None, Rollout(1, "0" * 32, held=True)])
def test_two_bundles_at_one_place_are_noticed(
    update: Update, publisher: Publisher, tiny: TinyPackage, rollout: Rollout | None
) -> None:
    publisher.publish(sequence=2)
    assert update().outcome == "updated"
    publisher.channel = Channel(tiny.manifest.model_id)
    publisher.publish(sequence=2, labels=LABELS[:1], rollout=rollout)
    # Something is odd there: an order that the metadata does not list holds all the same.
    row = ForgetRow(tiny.class_id("rose"), "order-1", "request", NOW)
    plain = ForgetList(9, NOW, (row,)).seal(publisher.forget_keys)
    (publisher.public / FORGET_FILE).write_bytes(plain)
    report = update()
    assert "states two bundles at epoch 1, sequence 2" in str(report.problem)
    assert report.forgotten is not None
    assert (report.forgotten.number, report.forgotten.applied) == (9, 1)
    assert labels(tiny) == set(LABELS) - {"rose"}


def test_a_bundle_that_is_not_the_announced_one(update: Update, publisher: Publisher) -> None:
    other = publisher.bundle(sequence=3, labels=LABELS[:1])
    publisher.publish(sequence=2)
    stable = publisher.channel.stable
    assert stable is not None
    publisher.forge.add_target(stable.target, other.to_bytes(), role="bundles")
    publisher.forge.publish("bundles")
    report = update()
    assert report.outcome == "rejected"
    assert "not the one that the channel announces" in str(report.problem)


def test_a_damaged_bundle_is_fetched_again(
    update: Update, publisher: Publisher, tiny: TinyPackage
) -> None:
    publisher.publish(sequence=2)
    assert update().outcome == "updated"
    forget_classes(tiny.directory, [tiny.class_id("daisy")])
    for damage in (b"", None):
        if damage is None:
            tiny.bundle_path.unlink()
        else:
            tiny.bundle_path.write_bytes(damage)
        assert update().outcome == "updated"
        assert labels(tiny) == set(LABELS) - {"daisy"}


def test_a_repository_of_another_model(
    update: Update, publisher: Publisher, tiny: TinyPackage
) -> None:
    publisher.forge.add_target(
        channel_target(ModelId("sha256:" + "77" * 32)), b"{}", role="bundles"
    )
    publisher.forge.publish("bundles")
    report = update()
    assert "has no channel for model sha256:5e5e5e5e5e5e…" in str(report.problem)
    assert report.exit_code == 1


def test_a_device_that_knows_no_root_or_has_no_state(
    publisher: Publisher, tiny: TinyPackage, device_state: Path
) -> None:
    report = update_model(tiny.directory, open_source(publisher.public))
    assert isinstance(report.error, StateMissingError)
    DeviceState.create(device_state, trust=None, bind=False)
    report = update_model(tiny.directory, open_source(publisher.public))
    assert "pfm-device init --root root.json" in str(report.problem)
    assert report.exit_code == 1


def test_another_update_is_under_way(update: Update, device: DeviceState) -> None:
    with Cache(device.updates_directory).alone(timeout=0, sleep=lambda _: None):
        report = update(timeout=0.2)
    assert isinstance(report.error, UpdateBusyError)
    assert report.exit_code == 75


def test_two_updates_at_once_end_well(
    publisher: Publisher, tiny: TinyPackage, device: DeviceState
) -> None:
    publisher.publish(sequence=2)
    publisher.forget([tiny.class_id("rose")])
    reports = []

    def run() -> None:
        options = UpdateOptions(clock=clock)
        source = open_source(publisher.public)
        reports.append(
            update_model(tiny.directory, source, state=device.directory, options=options)
        )

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(each.outcome for each in reports) == ["up-to-date"] * 3 + ["updated"]
    assert [each.problem for each in reports] == [None] * 4
    assert labels(tiny) == set(LABELS) - {"rose"}


def test_the_budget(update: Update, publisher: Publisher, tiny: TinyPackage) -> None:
    open_model(tiny.directory)
    publisher.publish(sequence=2)
    publisher.forget([tiny.class_id("rose")])
    with FileServer(publisher.public) as server:
        report = update(server.url, max_bytes=5500)
        assert "raise --max-bytes" in str(report.problem)
        assert report.bytes <= 5500
        assert report.exit_code == 1
        assert report.forgotten is not None
        assert report.forgotten.applied == 1
        assert update(server.url).outcome == "updated"


def test_receipts_beyond_the_budget_go_with_the_next_updates(
    update: Update, publisher: Publisher, tiny: TinyPackage
) -> None:
    open_model(tiny.directory)
    publisher.publish(sequence=2)
    publisher.forget([tiny.class_id("rose"), tiny.class_id("daisy")])
    with FileServer(publisher.public) as server:
        assert update(server.url).waiting == 2
        polled = update(server.url).bytes
        for left, code in ((1, 75), (0, 0)):
            report = update(server.url, receipts=f"{server.url}/receipts", max_bytes=polled + 2500)
            assert (report.outcome, report.waiting, report.exit_code) == ("up-to-date", left, code)
        assert len(server.posted) == 2


def test_another_root_that_a_person_sets_meanwhile_is_not_overwritten(
    update: Update, publisher: Publisher, device: DeviceState
) -> None:
    publisher.publish(sequence=2)
    other = RepositoryTrust(b"{}", cohort="beta")

    def meddle(word: str) -> None:
        if word == "leave:refresh":
            device.know_repository(other)

    report = update(observer=meddle)
    assert "told of another root or cohort meanwhile" in str(report.problem)
    assert device.repository() == other


# --- the disk


def _scene(folder: Path, publisher: Publisher) -> TinyPackage:
    """Make a device that took the first bundle, with a state of its own."""
    made = write_tiny_package(folder / "model")
    assert told_of(folder / "state", publisher, folder.parent) == 0
    assert _ask(made, publisher).outcome == "updated"
    return made


def _ask(made: TinyPackage, publisher: Publisher) -> UpdateReport:
    options = UpdateOptions(clock=clock, sleep=lambda _: None)
    state = made.directory.parent / "state"
    return update_model(made.directory, open_source(publisher.public), state=state, options=options)


def test_a_disk_that_breaks_anywhere_and_stays_broken_leaves_a_bundle_in_use(
    tmp_path: Path,
) -> None:
    """Full, or read-only from then on: whatever it was, the device serves, and forgets nothing."""
    tiny = write_tiny_package(tmp_path / "first" / "model")
    publisher = Publisher.create(tmp_path / "repo", tiny)

    publisher.publish(sequence=2)
    counted = _scene(tmp_path / "counted", publisher)
    scenes = [_scene(tmp_path / f"device-{each}", publisher) for each in range(80)]
    publisher.publish(sequence=3, labels=LABELS[:3])
    publisher.forget([tiny.class_id("rose")])
    calls = calls_of(lambda: _ask(counted, publisher))
    step = max(1, calls // len(scenes))
    for at, made in zip(range(1, calls, step), scenes, strict=False):
        state = made.directory.parent / "state"
        with broken(at, errno.ENOSPC, stays=True):
            report = _ask(made, publisher)
            if at < calls - 25:
                assert report.error is not None, at
            if report.error is not None:
                assert "\n" not in str(report.problem)
        opened = open_model(made.directory, state=state)
        forgotten = bool(DeviceState.open(state).memory.tombstones)
        served = set(opened.bundle.labels)
        assert served in (
            [set(LABELS[:3]) - {"rose"}, set(LABELS) - {"rose"}]
            if forgotten
            else [set(LABELS), set(LABELS[:3])]
        ), at
        report = _ask(made, publisher)
        assert report.problem is None, at
        assert set(open_model(made.directory, state=state).bundle.labels) == {"daisy", "tulip"}


def test_what_cannot_be_recorded_is_put_back(
    update: Update, publisher: Publisher, tiny: TinyPackage, device: DeviceState
) -> None:
    publisher.publish(sequence=2)
    assert update().outcome == "updated"
    old = tiny.bundle_path.read_bytes()
    publisher.publish(sequence=3, labels=LABELS[:2])
    real = DeviceState.append

    def append(self: DeviceState, *records: Any) -> Any:
        if any(each.kind == "install" for each in records):
            raise StorageError("the disk is full")
        return real(self, *records)

    with mock.patch.object(DeviceState, "append", append):
        report = update()
        assert (report.outcome, report.problem) == ("failed", "the disk is full")
        assert tiny.bundle_path.read_bytes() == old
        assert set(open_model(tiny.directory).bundle.labels) == set(LABELS)
    assert update().outcome == "updated"


def test_a_state_that_cannot_be_written(
    update: Update, publisher: Publisher, tiny: TinyPackage, device: DeviceState
) -> None:
    old = tiny.bundle_path.read_bytes()
    publisher.publish(sequence=2)
    with broken(1, errno.EROFS, stays=True):
        report = update()
    assert isinstance(report.error, StorageError)
    assert tiny.bundle_path.read_bytes() == old
    assert update().outcome == "updated"


# --- receipts


def test_receipts_go_where_they_should(
    update: Update, publisher: Publisher, tiny: TinyPackage, device: DeviceState, tmp_path: Path
) -> None:
    publisher.publish(sequence=2)
    assert update().outcome == "updated"
    publisher.forget([tiny.class_id("rose"), "ab" * 16])  # type: ignore[list-item]
    with FileServer(publisher.public) as server:
        server.posting = refusing(503)
        report = update(server.url, receipts=f"{server.url}/in", attempts=1)
        assert (report.outcome, report.sent, report.waiting) == ("up-to-date", 0, 2)
        assert isinstance(report.error, FetchError)
        assert report.exit_code == 75
        server.posting = None
        report = update(server.url, receipts=f"{server.url}/in")
        assert (report.problem, report.sent, report.waiting) == (None, 2, 0)
        assert len(server.posted) == 2
        report = update(server.url, receipts=f"{server.url}/in")
        assert (report.sent, report.waiting, report.requests) == (0, 0, 2)
    publisher.forget([tiny.class_id("daisy")])
    assert "make it" in str(update(receipts=str(tmp_path / "none")).problem)
    (tmp_path / "in").mkdir()
    assert update(receipts=str(tmp_path / "in")).sent == 1
    (found,) = (tmp_path / "in").iterdir()
    assert found.name.startswith(f"{device.device}-{tiny.class_id('daisy')}-")
    assert found.read_bytes().startswith(b'{"payload"')
