"""An update from its first state to its last, and what is left of it where it fails."""

import errno
import os
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pfm_edge_runtime.bundle import Entry
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import FetchError, StateMissingError, StorageError, UpdateBusyError
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.opening import open_model
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.ota.channel import Rollout
from pfm_edge_runtime.ota.names import channel_target
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState, RepositoryTrust
from tests.support.broken_disk import broken, calls_of
from tests.support.ota_server import FileServer, captive_portal, giving, refusing
from tests.support.tiny_package import (
    LABELS,
    TinyPackage,
    class_tensors,
    quarter,
    tiny_graph,
    write_tiny_package,
)
from tests.support.tuf_repository import Publisher, clock
from tests.unit.runtime.ota.conftest import Update

SALT = "00" * 16


def labels(tiny: TinyPackage) -> set[str]:
    return {each.label for each in Classifier.open(tiny.directory, threads=1).classes}


# --- how it goes well


def test_a_bundle_comes_over_the_network(
    update: Update, publisher: Publisher, tiny: TinyPackage
) -> None:
    publisher.publish(sequence=2)
    words: list[str] = []
    with FileServer(publisher.public) as server:
        report = update(server.url, observer=words.append)
        assert (report.problem, report.outcome, report.exit_code) == (None, "updated", 0)
        assert Classifier.open(tiny.directory).predict(quarter(3)).label == LABELS[3]
        server.forget_requests()
        assert update(server.url).outcome == "up-to-date"
        assert len(server.gets) == 2
    order = ["refresh", "trust", "forget", "channel", "fetch", "verify", "health", "commit"]
    assert words == [
        f"{kind}:{state}" for state in [*order, "report"] for kind in ("enter", "leave")
    ]


def test_a_bundle_comes_on_a_stick(
    update: Update, publisher: Publisher, device: DeviceState
) -> None:
    made = publisher.publish(sequence=2)
    report = update()
    assert (report.problem, report.outcome) == (None, "updated")
    assert report.place is not None
    assert report.place.statement == made.statement_digest
    assert device.memory.floors[made.model_id] == report.place
    assert update().outcome == "up-to-date"
    assert report.as_dict() == {
        "outcome": "updated",
        "model_id": made.model_id,
        "place": {"epoch": 1, "sequence": 2},
        "forget_list": {"number": 1, "rows": 0, "applied": 0, "absent": 0},
        "receipts": {"sent": 0, "waiting": 0},
        "bytes": report.bytes,
        "requests": report.requests,
        "problem": None,
    }


def test_a_stick_that_has_expired_still_holds_what_it_holds(
    update: Update, publisher: Publisher
) -> None:
    publisher.publish(sequence=2)
    assert update(clock=lambda: clock().replace(year=2029)).outcome == "updated"


def test_a_forget_list_alone(
    update: Update, publisher: Publisher, tiny: TinyPackage, tmp_path: Path
) -> None:
    (tmp_path / "list.json").write_bytes(publisher.forget([tiny.class_id("rose")]))
    assert "does not know who signs forget lists" in str(update(tmp_path / "list.json").problem)
    publisher.publish(sequence=2)
    assert update().outcome == "updated"
    (tmp_path / "list.json").write_bytes(publisher.forget([tiny.class_id("daisy")]))
    report = update(tmp_path / "list.json")
    assert (report.outcome, report.problem) == ("forget-list", None)
    assert report.forgotten is not None
    assert report.forgotten.applied == 1
    assert labels(tiny) == {"tulip", "violet"}
    (tmp_path / "list.json").write_bytes(b"{}")
    assert "list.json" in str(update(tmp_path / "list.json").problem)


def test_a_running_model_follows_an_update(
    update: Update, publisher: Publisher, tiny: TinyPackage
) -> None:
    open_model(tiny.directory)
    model = Classifier.open(tiny.directory)
    assert model.predict(quarter(3)).label != LABELS[3]
    answers, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(model.predict(quarter(0)).label)

    thread = threading.Thread(target=ask)
    thread.start()
    publisher.publish(sequence=2)
    report = update()
    stop.set()
    thread.join()
    assert report.outcome == "updated"
    assert set(answers) == {LABELS[0]}
    assert model.predict(quarter(3)).label == LABELS[3]


# --- the forget list, first and always


def test_a_forget_list_comes_first(update: Update, publisher: Publisher, tiny: TinyPackage) -> None:
    open_model(tiny.directory)
    publisher.forget([tiny.class_id("rose"), "ab" * 16])  # type: ignore[list-item]
    report = update()
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert "no channel" in str(report.problem)
    assert report.forgotten is not None
    assert (report.forgotten.applied, report.forgotten.absent) == (1, 1)
    assert report.waiting == 2
    assert "rose" not in labels(tiny)


_ANSWERS = {
    "no metadata": {"metadata/*": refusing(404)},
    "torn metadata": {"metadata/*": giving(b"{}")},
    "portal on metadata": {"metadata/*": captive_portal},
    "no bundle": {"targets/bundles/*": refusing(404)},
    "bad channel": {"targets/channel/*": giving(b"{}")},
}


@pytest.mark.parametrize(
    "failure",
    ["expired", "no metadata", "torn metadata", "portal on metadata", "no bundle", "unhealthy",
     "not included", "rejected before", "no package", "bad channel", "no room in the cache"],
)  # fmt: skip
def test_whatever_fails_after_it_the_list_is_obeyed(
    update: Update, publisher: Publisher, tiny: TinyPackage, device: DeviceState, failure: str
) -> None:
    publisher.publish(sequence=2)
    assert update().outcome == "updated"
    options: dict[str, Any] = {}
    rollout = Rollout(1, SALT, cohorts=("nobody",)) if failure == "not included" else None
    bad = [_not_finite()] if failure in {"unhealthy", "rejected before"} else []
    publisher.publish(sequence=3, rollout=rollout, also=bad)
    if failure == "rejected before":
        assert update().outcome == "rejected"
    publisher.forget([tiny.class_id("rose")])
    if failure == "expired":
        options["clock"] = lambda: clock().replace(year=2029)
    if failure == "no package":
        tiny.directory.rename(tiny.directory.with_name("away"))
    if failure == "no room in the cache":
        (device.updates_directory / "forget.json").unlink()
        (device.updates_directory / "forget.json").mkdir()
    with FileServer(publisher.public) as server:
        server.answers |= _ANSWERS.get(failure, {})
        report = update(server.url, attempts=1, **options)
    if failure == "no package":
        tiny.directory.with_name("away").rename(tiny.directory)
    assert report.forgotten is not None, report
    assert report.forgotten.rows == 1
    assert report.forgotten.applied + report.forgotten.absent == 1
    assert labels(tiny) == {"daisy", "tulip", "violet"}
    assert (report.problem is None) == (failure in {"not included", "no room in the cache"})


def _not_finite() -> Entry:
    """A class that is sound, and that makes the graph overflow."""
    tensors = {name: array.copy() for name, array in class_tensors(9).items()}
    tensors["prompt_values"][:] = np.float32(3e38)
    return Entry(class_id="ff" * 16, label="inf", tensors=tensors, salt="9" * 32)  # type: ignore[arg-type]


# --- health


def test_an_unhealthy_bundle_leaves_the_old_one_and_the_next_one_is_taken(
    update: Update, publisher: Publisher, tiny: TinyPackage
) -> None:
    publisher.publish(sequence=2, labels=LABELS[:2])
    assert update().outcome == "updated"
    publisher.publish(sequence=3, also=[_not_finite()])
    report = update()
    assert (report.outcome, report.exit_code) == ("rejected", 1)
    assert "not finite" in str(report.problem)
    assert labels(tiny) == set(LABELS[:2])
    assert report.place is not None
    assert report.place.sequence == 2
    assert "rejected by this device before" in str(update().problem)
    publisher.publish(sequence=4)
    assert update().outcome == "updated"


def test_a_graph_that_does_not_compute_its_golden_vectors_takes_no_bundle(
    tmp_path: Path, device_state: Path
) -> None:
    graph = tiny_graph().replace(np.float32(0.2).tobytes(), np.float32(0.3).tobytes())
    tiny = write_tiny_package(tmp_path / "model", graph=graph)
    publisher = Publisher.create(tmp_path / "repo", tiny)
    publisher.publish(sequence=2)
    assert main_init(device_state, publisher, tmp_path) == 0
    report = update_model(tiny.directory, open_source(publisher.public))
    assert report.outcome == "rejected"
    assert "golden vectors" in str(report.problem)


def main_init(device_state: Path, publisher: Publisher, folder: Path) -> int:
    from pfm_edge_runtime.cli import main

    (folder / "root.json").write_bytes(publisher.root)
    return main(["init", "--state", str(device_state), "--root", str(folder / "root.json")])


# --- rollouts


def test_a_candidate_is_for_those_whom_it_includes_and_nobody_goes_back(
    update: Update, publisher: Publisher
) -> None:
    publisher.publish(sequence=2)
    assert update().outcome == "updated"
    publisher.publish(sequence=3, rollout=Rollout(100, SALT, cohorts=("beta",)))
    assert update().outcome == "not-included"
    publisher.publish(sequence=4, rollout=Rollout(100, SALT, held=True))
    assert update().outcome == "held-back"
    publisher.publish(sequence=5, rollout=Rollout(100, SALT, not_before="2026-11-30T00:00:00Z"))
    with FileServer(publisher.public) as server:
        assert update(server.url).outcome == "not-included"
    publisher.publish(sequence=6, rollout=Rollout(100, SALT, cohorts=("beta",)))
    report = update(cohort="beta")
    assert (report.outcome, report.place and report.place.sequence) == ("updated", 6)
    publisher.publish(sequence=6, rollout=Rollout(1, SALT, cohorts=("nobody",)))
    assert update().outcome == "up-to-date"  # it has it, and keeps it
    publisher.publish(sequence=5)  # taken back without a re-issue: it does not go back
    report = update()
    assert (report.outcome, report.place and report.place.sequence) == ("up-to-date", 6)
    publisher.publish(sequence=7)
    assert update().outcome == "updated"


# --- what may be wrong


def test_two_bundles_at_one_place_are_noticed(
    update: Update, publisher: Publisher, tiny: TinyPackage
) -> None:
    publisher.publish(sequence=2)
    assert update().outcome == "updated"
    publisher.publish(sequence=2, labels=LABELS[:1])
    report = update()
    assert "states two bundles at epoch 1, sequence 2" in str(report.problem)
    assert labels(tiny) == set(LABELS)


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


def test_a_disk_that_breaks_anywhere_and_stays_broken_leaves_a_bundle_in_use(
    tmp_path: Path,
) -> None:
    """Full, or read-only from then on: whatever it was, the device serves, and forgets nothing."""
    tiny = write_tiny_package(tmp_path / "first" / "model")
    publisher = Publisher.create(tmp_path / "repo", tiny)

    def scene(name: str) -> TinyPackage:
        made = write_tiny_package(tmp_path / name / "model")
        state = tmp_path / name / "state"
        assert main_init(state, publisher, tmp_path) == 0
        assert _ask(made, state, publisher).outcome == "updated"
        return made

    def _ask(made: TinyPackage, state: Path, publisher: Publisher) -> Any:
        options = UpdateOptions(clock=clock, sleep=lambda _: None)
        return update_model(
            made.directory, open_source(publisher.public), state=state, options=options
        )

    publisher.publish(sequence=2)
    devices = [scene("counted")]
    scenes = [scene(f"device-{each}") for each in range(80)]
    publisher.publish(sequence=3, labels=LABELS[:3])
    publisher.forget([tiny.class_id("rose")])
    state = tmp_path / "counted" / "state"
    calls = calls_of(lambda: _ask(devices[0], state, publisher))
    step = max(1, calls // len(scenes))
    for at, made in zip(range(1, calls, step), scenes, strict=False):
        state = made.directory.parent / "state"
        with broken(at, errno.ENOSPC, stays=True):
            report = _ask(made, state, publisher)
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
        report = _ask(made, state, publisher)
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_state_that_cannot_be_written(
    update: Update, publisher: Publisher, tiny: TinyPackage, device: DeviceState
) -> None:
    publisher.publish(sequence=2)
    device.directory.chmod(0o500)
    try:
        report = update()
    finally:
        device.directory.chmod(0o700)
    assert isinstance(report.error, StorageError)


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
