"""An update from its first state to its last, and what is left of it where it fails."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfm_edge_runtime.bundle import Entry
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import BackendError
from pfm_edge_runtime.opening import open_model
from pfm_edge_runtime.ota.channel import Rollout
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.stopping import Stopping
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState
from pfm_edge_runtime.variants import VariantGraph
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
from tests.unit.runtime.ota.conftest import Update, told_of

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
    assert told_of(device_state, publisher, tmp_path) == 0
    report = update_model(tiny.directory, open_source(publisher.public))
    assert report.outcome == "rejected"
    assert "golden vectors" in str(report.problem)


def test_a_graph_that_could_not_run_just_now_is_tried_three_times(
    update: Update, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(self: VariantGraph, *_: object) -> None:
        raise BackendError("onnxruntime: std::bad_alloc")

    publisher.publish(sequence=2)
    with monkeypatch.context() as patch:
        patch.setattr(VariantGraph, "run_arranged", no_memory)
        for left in (2, 1):
            report = update()
            assert (report.outcome, report.exit_code) == ("failed", 75)
            assert f"bad_alloc; tries left: {left}" in str(report.problem)
    assert update().outcome == "updated"
    publisher.publish(sequence=3)
    with monkeypatch.context() as patch:
        patch.setattr(VariantGraph, "run_arranged", no_memory)
        outcomes = [update().outcome for _ in range(3)]
    assert outcomes == ["failed", "failed", "rejected"]
    assert "rejected by this device before" in str(update().problem)


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


# --- told to stop


def test_what_waits_stops_and_what_is_being_written_ends(
    update: Update, publisher: Publisher, device: DeviceState
) -> None:
    publisher.publish(sequence=2)
    stopping = Stopping()

    def ask(word: str) -> Callable[[str], None]:
        return lambda said: stopping.request() if said == word else None

    report = update(stopping=stopping, observer=ask("leave:channel"))
    assert (report.outcome, report.exit_code) == ("stopped", 75)
    assert "stopped before its end" in str(report.problem)
    stopping = Stopping()
    assert update(stopping=stopping, observer=ask("enter:commit")).outcome == "updated"
    assert device.memory.floors[publisher.tiny.manifest.model_id].sequence == 2
