"""A restored repository and its copies: what waits, what others signed meanwhile, snapshots."""

import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pfm_edge.ota import (
    PublisherRepository,
    Role,
    RolloutRequest,
    Signers,
    abandon,
    forget,
    publish,
    refresh,
    repository_state,
    restore,
    sign,
)
from pfm_edge.ota._journal import store
from pfm_edge_runtime.errors import RepositoryError
from tests.support.ota_world import World
from tests.support.publisher import CLASS_IDS, Publisher
from tests.support.tiny_package import MODEL_ID

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

VIOLET = CLASS_IDS["violet"]


def _copy(publisher: Publisher) -> PublisherRepository:
    """Return a second copy of the repository, with the same registry."""
    place = shutil.copytree(publisher.repository.directory, publisher.directory / "second")
    return PublisherRepository(place, publisher.clock)


def _wait_restored(publisher: Publisher) -> None:
    """Let a change wait that goes on from an older copy."""
    put_back = publisher.backup()
    forget(publisher.repository, [VIOLET])
    put_back()
    assert not restore(publisher.repository, signers=Signers()).committed


def test_a_restored_change_is_signed_in_one_copy_only(publisher: Publisher) -> None:
    _wait_restored(publisher)
    second = _copy(publisher)
    assert sign(publisher.repository).committed
    with pytest.raises(RepositoryError, match=r"more was signed .*ota abandon .*--restored"):
        sign(second)
    assert not second.layout.committing.exists()
    assert abandon(second)
    assert restore(second).committed


def test_a_restored_change_that_waits_is_said_to(publisher: Publisher) -> None:
    until = publisher.clock() + timedelta(days=7)
    _wait_restored(publisher)
    said = (
        rf"waits to be signed: .*ota sign .*timestamp in force holds until {until:%Y-%m-%d %H:%M}"
    )
    with pytest.raises(RepositoryError, match=said):
        refresh(publisher.repository)
    [problem] = repository_state(publisher.repository).problems
    assert re.search(said, problem)
    assert "--restored" not in problem


def test_a_change_that_another_copy_outdoes_meanwhile_is_not_said_to_be_published(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = _copy(publisher)

    def stored(*given: Any, **options: Any) -> None:
        store(*given, **options)
        patched.setattr("pfm_edge.ota._repository.store", store)
        for _ in range(2):
            refresh(second)

    with monkeypatch.context() as patched:
        patched.setattr("pfm_edge.ota._repository.store", stored)
        with pytest.raises(RepositoryError, match=r"another copy .* nothing of this is published"):
            refresh(publisher.repository)
    assert restore(publisher.repository).committed
    assert publisher.client().bundle(MODEL_ID)


# --- repository and registry restored together --------------------------------------------------


def _version(world: World, role: Role) -> int:
    found = {each.role: each.version for each in repository_state(world.repository).roles}
    return found[role]


def test_devices_that_saw_more_than_a_machine_that_was_set_back_come_along(tmp_path: Path) -> None:
    world = World.create(tmp_path / "world")
    world.publish("daisy", "rose")
    snapshot = shutil.copytree(world.root, tmp_path / "snapshot")
    device = world.device()
    world.publish("daisy", rollout=RolloutRequest(100, not_before="2026-01-01T00:00:00Z"))
    world.forget("rose")  # both bundles again: two places by one change
    assert device.update(world.public).outcome == "updated"
    seen = _version(world, Role.TIMESTAMP)
    shutil.copytree(device.root, tmp_path / "device")
    shutil.rmtree(world.root)
    shutil.copytree(snapshot, world.root)
    shutil.copytree(tmp_path / "device", device.root)
    with pytest.raises(RepositoryError, match=r"nothing here shows .*--restored --above N"):
        restore(world.repository)
    before = device.sequence
    outcome = restore(world.repository, above=seen)
    assert any("orders to forget" in each for each in outcome.notes)
    device.update(world.public)
    assert device.sequence > before
    assert device.answers == {"daisy"}  # it keeps the order that the machine forgot
    assert _version(world, Role.TIMESTAMP) == seen + 1
    world.publish("tulip")
    assert device.update(world.public).outcome == "updated"


def test_a_model_that_a_machine_lacks_that_was_set_back_gets_a_place_above(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    assert restore(publisher.repository, above=3).committed
    publish(publisher.repository, publisher.package())
    statement = publisher.client().bundle(MODEL_ID).statement
    assert (statement.epoch, statement.sequence) == (1, 7)  # two places by each of three changes


def test_what_is_above_must_be_above_what_is_here(publisher: Publisher) -> None:
    with pytest.raises(RepositoryError, match=r"timestamp is version 2 here: .* at least 2"):
        restore(publisher.repository, above=1)


def test_going_on_above_a_number_is_decided_when_it_begins(publisher: Publisher) -> None:
    assert not restore(publisher.repository, above=5, signers=Signers()).committed
    assert abandon(publisher.repository)
    with pytest.raises(RepositoryError, match="version 5 was signed already"):
        refresh(publisher.repository)
    assert restore(publisher.repository).committed
