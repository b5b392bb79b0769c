"""What an update costs on the wire, counted at the server: header and body, both directions.

The figures for real sizes are in docs/ota-figures.md (``python -m benchmarks ota_wire``).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pfm_edge.ota import RolloutRequest, forget, refresh, set_rollout
from tests.support.ota_server import FileServer
from tests.support.ota_world import Device, World
from tests.support.tiny_package import MODEL_ID

STEADY = ["metadata/2.root.json", "metadata/timestamp.json"]
_MOST_STEADY, _MOST_HUNDRED, _MOST_THOUSAND = 2_000, 40_000, 250_000  # bytes


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World.create(tmp_path / "world")
    world.publish()
    return world


@pytest.fixture
def server(world: World) -> Iterator[FileServer]:
    with FileServer(world.public) as server:
        yield server


@pytest.fixture
def device(world: World, server: FileServer) -> Device:
    device = world.device()
    assert device.update(server.url).outcome == "updated"
    return device


def _cost(device: Device, server: FileServer) -> tuple[list[str], int]:
    """Let a device ask; return what it asked for and what that cost."""
    server.forget_requests()
    report = device.update(server.url)
    assert report.problem is None
    assert report.requests == len(server.requests)
    return server.gets, server.sent + server.received


def _bundles(gets: list[str]) -> list[str]:
    return [each for each in gets if "/bundles/" in each]


def test_a_steady_poll_is_two_small_gets(device: Device, server: FileServer) -> None:
    for _ in range(3):
        gets, cost = _cost(device, server)
        assert gets == STEADY
        assert cost < _MOST_STEADY
    connections = {each.connection for each in server.requests}
    assert len(connections) == 1


def test_a_poll_after_a_refresh_brings_no_target(
    world: World, device: Device, server: FileServer
) -> None:
    world.later(days=6)
    refresh(world.repository)
    gets, _ = _cost(device, server)
    assert not [each for each in gets if each.startswith("targets/")]


@pytest.mark.parametrize(
    ("rows", "most"), [(1, 10_000), (100, _MOST_HUNDRED), (1000, _MOST_THOUSAND)]
)
def test_a_forget_list(
    world: World, device: Device, server: FileServer, rows: int, most: int
) -> None:
    ids = [f"{10**6 + number:032x}" for number in range(rows)]
    forget(world.repository, ids, unknown=True)
    gets, cost = _cost(device, server)
    assert cost < most
    # Neither a channel nor a bundle is fetched for it: nothing of them changed.
    assert [each.rpartition(".forget.json")[1] for each in gets[3:]] == [".forget.json"] * 2
    assert _cost(device, server)[0] == STEADY


def test_nothing_is_downloaded_again_after_a_forget_here(
    device: Device, server: FileServer
) -> None:
    device.forget("rose")  # the bundle's file is another one now
    assert _cost(device, server)[0] == STEADY


def test_one_bundle_for_one_update(world: World, device: Device, server: FileServer) -> None:
    for labels in (("daisy", "rose"), ("daisy",)):
        world.publish(*labels)
        assert len(_bundles(_cost(device, server)[0])) == 1
        assert _cost(device, server)[0] == STEADY
        device.forget(labels[-1])
        assert _cost(device, server)[0] == STEADY


def test_a_rollout_that_leaves_a_device_out_costs_no_bundle(
    world: World, device: Device, server: FileServer
) -> None:
    world.publish("daisy", "rose", rollout=RolloutRequest(100, cohorts=("canary",)))
    assert _bundles(_cost(device, server)[0]) == []
    assert _cost(device, server)[0] == STEADY
    set_rollout(world.repository, MODEL_ID, "hold")
    assert _bundles(_cost(device, server)[0]) == []
    set_rollout(world.repository, MODEL_ID, "resume")
    set_rollout(world.repository, MODEL_ID, 100, everyone=True)
    assert len(_bundles(_cost(device, server)[0])) == 1


def test_a_new_device_asks_for_each_thing_once(world: World, server: FileServer) -> None:
    device = world.device("new")
    gets, _ = _cost(device, server)
    assert len(gets) == len(set(gets)) == 9
