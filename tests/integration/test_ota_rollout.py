"""Hold, resume and stop, as devices live through them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pfm_edge.ota import RolloutRequest, set_rollout
from tests.support.ota_server import FileServer
from tests.support.ota_world import Device, World
from tests.support.tiny_package import MODEL_ID

CANARY = {"cohort": "canary"}
EARLY = RolloutRequest(100, cohorts=("canary",))


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World.create(tmp_path / "world")
    world.publish("daisy", "rose", "tulip")
    return world


@pytest.fixture
def server(world: World) -> Iterator[FileServer]:
    with FileServer(world.public) as server:
        yield server


@pytest.fixture
def devices(world: World, server: FileServer) -> tuple[Device, Device]:
    """One device that the rollout includes and that took it, and one that it leaves out."""
    canary, other = world.device("canary"), world.device("other")
    assert canary.update(server.url).outcome == other.update(server.url).outcome == "updated"
    world.publish("rose", "tulip", "violet", rollout=EARLY)
    assert canary.update(server.url, **CANARY).outcome == "updated"
    assert other.update(server.url).outcome == "not-included"
    return canary, other


def test_a_rollout_that_is_held(
    world: World, server: FileServer, devices: tuple[Device, Device]
) -> None:
    canary, other = devices
    late = world.device("late")
    set_rollout(world.repository, MODEL_ID, "hold")
    assert late.update(server.url, **CANARY).outcome == "updated"
    assert late.answers == {"daisy", "rose", "tulip"}  # the stable one
    assert late.update(server.url, **CANARY).outcome == "held-back"
    assert canary.update(server.url, **CANARY).outcome == "up-to-date"
    set_rollout(world.repository, MODEL_ID, "resume")
    assert late.update(server.url, **CANARY).outcome == "updated"
    assert late.answers == canary.answers == {"rose", "tulip", "violet"}
    assert other.answers == {"daisy", "rose", "tulip"}


def test_a_forget_reaches_both_bundles_of_a_rollout(
    world: World, server: FileServer, devices: tuple[Device, Device]
) -> None:
    canary, other = devices
    world.forget("rose")
    assert canary.update(server.url, **CANARY).outcome == "updated"
    assert other.update(server.url).outcome == "updated"
    assert canary.answers == {"tulip", "violet"}
    assert other.answers == {"daisy", "tulip"}
    assert len([*world.public.rglob("*.safetensors")]) == 2


def test_a_forget_while_a_rollout_is_held(
    world: World, server: FileServer, devices: tuple[Device, Device]
) -> None:
    canary, _ = devices
    set_rollout(world.repository, MODEL_ID, "hold")
    world.forget("rose")
    # Both bundles are issued anew, and the new candidate is held: a device that had the one before
    # follows it all the same, for a device never goes back.
    assert canary.update(server.url, **CANARY).outcome == "updated"
    assert canary.answers == {"tulip", "violet"}
    world.forget("violet")
    assert canary.update(server.url, **CANARY).outcome == "updated"
    assert canary.answers == {"tulip"}
    late = world.device("late")
    assert late.update(server.url, **CANARY).outcome == "updated"
    assert late.answers == {"daisy", "tulip"}  # the stable one


def test_a_rollout_that_is_stopped(
    world: World, server: FileServer, devices: tuple[Device, Device]
) -> None:
    set_rollout(world.repository, MODEL_ID, "stop")
    for device in devices:
        assert device.update(server.url, **CANARY).problem is None
        assert device.answers == {"daisy", "rose", "tulip"}
    # At a later place: the old classes, and yet no rollback.
    assert {each.sequence for each in devices} == {(1, 3)}


def test_a_rollout_that_is_narrowed_says_who_keeps_the_bundle(world: World) -> None:
    world.publish()
    world.publish("daisy", "rose", rollout=RolloutRequest(50))
    assert not any("keep" in each for each in set_rollout(world.repository, MODEL_ID, 60).notes)
    assert any(
        "keep it: stop" in each for each in set_rollout(world.repository, MODEL_ID, 10).notes
    )
