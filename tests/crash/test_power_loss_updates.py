"""The power goes at any moment of an update: what was forgotten stays so, nothing else is lost.

Every distinct disk that this may leave is made real and opened; then the update is made again, and
the device must come to what is published. A sample is tried by default, each disk with
``PFM_EDGE_EVERY_CRASH=1``.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.errors import VerificationError
from pfm_edge_runtime.opening import open_model
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.report import UpdateReport
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState
from tests.support.crash_disk import Point, crash_points
from tests.support.crash_scenarios import obey_list
from tests.support.device_disk import LEDGER
from tests.support.disk_events import Recording
from tests.support.recorded_disk import recorded
from tests.support.tiny_package import LABELS, write_tiny_package
from tests.support.tuf_repository import Publisher, clock

_EVERY = os.environ.get("PFM_EDGE_EVERY_CRASH") == "1"
_SAMPLE = 60
_UNKNOWN = 40  # classes of a long list that are nowhere


def _sample(points: list[Point]) -> list[Point]:
    """Take some from everywhere: the points are in the order of time."""
    step = 1 if _EVERY else max(1, len(points) // _SAMPLE)
    return points[::step]


def _made_real(points: list[Point], workplace: Path) -> Iterator[tuple[Point, Path]]:
    for number, point in enumerate(points):
        root = workplace / f"disk-{number}"
        root.mkdir(parents=True)
        point.image.write_to(root)
        yield point, root
        shutil.rmtree(root)


# --- a long list


@pytest.fixture
def device(tmp_path: Path) -> Path:
    root = tmp_path / "device"
    write_tiny_package(root / "model")
    open_model(root / "model", state=root / "state")
    return root


def _obey(root: Path) -> None:
    obey_list(root, "rose", unknown=_UNKNOWN)


def _record(root: Path, operation: Callable[[Path], object]) -> Recording:
    with recorded(root) as recording:
        operation(root)
    return recording


def test_a_long_list_is_there_or_not(device: Path, tmp_path: Path) -> None:
    recording = _record(device, _obey)
    assert [str(each) for each in recording.steps].count(f"fsync {LEDGER}") <= 2
    found = set()
    for point, root in _made_real(_sample(crash_points(recording)), tmp_path / "disks"):
        before = DeviceState.open(root / "state").memory.tombstones
        served = open_model(root / "model", state=root / "state").bundle.labels
        found.add((len(before), "rose" in served))
        _obey(root)
        memory = DeviceState.open(root / "state").memory
        assert len(memory.tombstones) == 1 + _UNKNOWN, point.how
        assert len(list(memory.receipts())) == 1 + _UNKNOWN, point.how
        assert not memory.pending, point.how
        left = [each.name for each in (root / "state").iterdir() if each.name.startswith(".")]
        assert not left or len(before) == 1 + _UNKNOWN, point.how
    assert found == {(0, True), (1 + _UNKNOWN, False)}


# --- an update


def _update(root: Path, publisher: Publisher) -> UpdateReport:
    options = UpdateOptions(clock=clock, sleep=lambda _: None)
    source = open_source(publisher.public)
    return update_model(root / "model", source, state=root / "state", options=options)


def _served(root: Path) -> set[str] | None:
    """Open the model; ``None`` where it is one that this device never had, and nobody signed."""
    state = DeviceState.open(root / "state")
    try:
        return set(open_model(root / "model", state=state).bundle.labels)
    except VerificationError as error:
        if error.step != 3 or state.memory.floors:
            raise
        return None


@pytest.fixture(params=["healthy", "unhealthy", "first", "rotated"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Publisher, set[str]]:
    """Return a device, what it is to follow, and what it serves in the end."""
    root = tmp_path / "device"
    tiny = write_tiny_package(root / "model")
    publisher = Publisher.create(tmp_path / "repo", tiny)
    (tmp_path / "root.json").write_bytes(publisher.root)
    init = ["init", "--state", str(root / "state"), "--root", str(tmp_path / "root.json")]
    assert main(init) == 0
    publisher.publish(sequence=2)
    if request.param != "first":
        assert _update(root, publisher).problem is None
    if request.param == "rotated":
        publisher.bundle_keys = publisher.delegate("bundles", ["bundles/*/*", "channel/*"])
        publisher.forge.publish("targets", "bundles")
    unknown = [f"{number:032x}" for number in range(10_000, 10_012)]
    publisher.forget([tiny.class_id("rose"), *unknown])  # type: ignore[list-item]
    if request.param == "unhealthy":
        publisher.bundle_keys = []
    publisher.publish(sequence=3, labels=LABELS[:3])
    healthy = request.param != "unhealthy"
    return root, publisher, {"daisy", "tulip"} if healthy else {"daisy", "tulip", "violet"}


def test_an_update_converges_after_any_power_loss(
    scene: tuple[Path, Publisher, set[str]], tmp_path: Path
) -> None:
    device, publisher, published = scene
    recording = _record(device, lambda root: _update(root, publisher))
    whole = {"daisy", "tulip", "violet"}
    for point, root in _made_real(_sample(crash_points(recording)), tmp_path / "disks"):
        forgotten = bool(DeviceState.open(root / "state").memory.tombstones)
        served = _served(root)
        assert served in ([whole, published, None] if forgotten else [{*LABELS}, None]), point.how
        report = _update(root, publisher)
        good = published != whole
        assert (report.outcome in {"updated", "up-to-date"}) == good, (point.how, report)
        state = DeviceState.open(root / "state")
        opened = open_model(root / "model", state=state)
        assert set(opened.bundle.labels) == published, point.how
        assert len(state.memory.tombstones) == 13, point.how
        assert not state.memory.pending, point.how
        assert not state.memory.unseen, point.how
        assert (report.sent, report.waiting) == (0, 13), (point.how, report)
