"""An updater that is killed, at every state: entering it, within it and leaving it.

A real second process, a real SIGKILL, a real server; with a bundle that is healthy and with one
that is not. Whatever a death leaves, the device goes on serving what it must and nothing else, and
the next update brings it to what is published. The same of a power cut, which takes away what was
not synced; and without fsync the test is red.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
import pytest

from pfm_edge_runtime.bundle import Entry
from pfm_edge_runtime.errors import PfmEdgeError
from tests.support.crash_disk import Point, crash_points
from tests.support.device_disk import DeviceDisk
from tests.support.disk_events import Recording
from tests.support.ota_server import FileServer
from tests.support.ota_world import Device, World, class_ids
from tests.support.recorded_disk import recorded
from tests.support.tiny_package import entries

STATES = ("refresh", "trust", "forget", "channel", "fetch", "verify", "health", "commit", "report")
_LEAST_CASES = {True: 54, False: 47}  # more than a hundred together
_SAMPLE = 60


def _sick(each: Entry) -> Entry:
    """Return a class whose numbers are finite, and whose score is not."""
    huge = np.full_like(each.tensors["class_weight"], 3e38)
    return replace(each, tensors={**each.tensors, "class_weight": huge})


@contextmanager
def _stage(root: Path, *, healthy: bool) -> Iterator[tuple[World, Device, FileServer]]:
    """A device that forgot "daisy" by itself; waiting for it: forget "rose", and a new bundle."""
    world = World.create(root / "world")
    world.publish()
    device = world.device()
    with FileServer(world.public) as server:
        assert device.update(server.url).outcome == "updated"
        device.forget("daisy")
        world.forget("rose")
        kept = [each for each in entries() if each.label != "rose"]
        again = kept if healthy else [_sick(each) for each in kept]
        world.publish(entries=[replace(each, salt="5" * 32) for each in again])
        yield world, device, server


def _killed(device: Device, target: Path, url: str) -> list[Path]:
    target.mkdir()
    command = [sys.executable, "-m", "tests.support.ota_kills", device.root, target, url]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return sorted(target.iterdir())


def _require_right(device: Device) -> None:
    """Require what holds at any moment: no forgotten class answers, no retained class is lost."""
    disk = DeviceDisk.read(device.root)
    known = device.answers  # and "daisy" is not among them
    assert known >= {"tulip", "violet"}
    (rose,) = class_ids("rose")
    assert "rose" not in known or rose not in disk.classes("tombstone")
    assert "daisy" not in known


def _require_converged(device: Device, server: FileServer, *, healthy: bool) -> None:
    server.forget_requests()
    report = device.update(server.url)
    if healthy:
        assert report.problem is None, report
        assert report.outcome in {"updated", "up-to-date"}
        assert device.sequence == (1, 3)
    else:
        assert report.outcome == "rejected", report
        assert device.sequence == (1, 1)
    assert device.answers == {"tulip", "violet"}
    assert report.waiting == 2  # a receipt for each of the two
    assert not [each for each in device.model.iterdir() if each.name.startswith(".")]
    gone = {each.tensors["prompt_values"].tobytes() for each in entries(("daisy", "rose"))}
    assert not DeviceDisk.read(device.root).holding(gone)
    server.forget_requests()
    device.update(server.url)
    assert not [each for each in server.gets if "/bundles/" in each]  # never fetched again


@pytest.mark.parametrize("healthy", [True, False], ids=["healthy", "with a failing health check"])
def test_a_kill_at_every_state(tmp_path: Path, healthy: bool) -> None:
    with _stage(tmp_path, healthy=healthy) as (world, device, server):
        deaths = _killed(device, tmp_path / "killed", server.url)
        for root in deaths:
            found = Device(world, root, forgotten={"daisy"})
            _require_right(found)
            found.forgotten = {"daisy", "rose"}
            _require_converged(found, server, healthy=healthy)
    names = [each.name.split("-") for each in deaths if each.name != "complete"]
    reached = STATES if healthy else tuple(each for each in STATES if each != "commit")
    for when in ("entering", "within", "leaving"):
        met = {state for how, state, *_ in names if how == when}
        missing = set(reached) - met
        # A state that fails is not left in good order.
        assert missing <= ({"health"} if when == "leaving" and not healthy else set())
    assert len(names) >= _LEAST_CASES[healthy]


def _record(device: Device, url: str, *, syncing: bool = True) -> Recording:
    with recorded(device.root) as recording, ExitStack() as stack:
        if not syncing:  # behind the recorder: it hears of no sync
            stack.enter_context(mock.patch.object(os, "fsync", return_value=None))
        assert device.update(url).outcome == "updated"
    return recording


def _broken(points: Sequence[Point], world: World, server: FileServer, root: Path) -> list[str]:
    """Let a device live on after each power cut; return what was wrong with it."""
    found = []
    for number, point in enumerate(points):
        left = Device(world, root / str(number), forgotten={"daisy"})
        left.root.mkdir(parents=True)
        point.image.write_to(left.root)
        try:
            _require_right(left)
            left.forgotten = {"daisy", "rose"}
            _require_converged(left, server, healthy=True)
        except (AssertionError, PfmEdgeError) as error:
            found.append(f"{point.how}: {type(error).__name__}: {error}")
        shutil.rmtree(left.root)
    return found


def _sample(recording: Recording) -> list[Point]:
    points = crash_points(recording)
    every = os.environ.get("PFM_EDGE_EVERY_CRASH") == "1"
    return points if every else Random(0).sample(points, min(_SAMPLE, len(points)))


def test_a_power_cut_at_any_call(tmp_path: Path) -> None:
    with _stage(tmp_path, healthy=True) as (world, device, server):
        recording = _record(device, server.url)
        # Torn files of the cache, of the ledger and of the bundle are among them.
        assert _broken(_sample(recording), world, server, tmp_path / "cut") == []


def test_without_fsync_a_power_cut_is_found_out(tmp_path: Path) -> None:
    with _stage(tmp_path, healthy=True) as (world, device, server):
        lazy = _record(device, server.url, syncing=False)
        points = _sample(lazy)[: _SAMPLE // 2]
        found = "\n".join(_broken(points, world, server, tmp_path / "cut"))
    assert "BundleFormatError" in found  # a name without its bytes
