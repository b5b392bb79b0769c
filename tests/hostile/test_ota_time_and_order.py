"""Clocks that are wrong, copies that are old, and orders that come before what they are about.

The device is up to date and forgot "rose".
"""

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pfm_edge.ota import Role, RolloutRequest, forget, refresh
from pfm_edge_runtime.errors import RepositoryError, UpdateError
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.ota.channel import Channel, Release
from pfm_edge_runtime.ota.forget_list import ForgetList, ForgetRow
from pfm_edge_runtime.ota.names import FORGET_FILE, bundle_target, channel_target
from tests.support.ota_scene import Scene, set_scene
from tests.support.ota_server import giving, refusing
from tests.support.ota_world import class_ids
from tests.support.tiny_package import MODEL_ID

ONLINE = ("snapshot", "timestamp")
STAY = {"daisy", "tulip", "violet"}
AGES = {"ten days": timedelta(days=10), "two years": timedelta(days=730)}
IN_1971, IN_2099 = (datetime(year, 6, 1, tzinfo=UTC) for year in (1971, 2099))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with set_scene(tmp_path) as scene:
        yield scene


def test_a_clock_at_1971_updates_from_an_honest_server(scene: Scene) -> None:
    scene.device.clock_is = IN_1971
    scene.recover()


def test_a_clock_at_1971_is_no_way_to_freeze_a_device(scene: Scene) -> None:
    # What expired is told by times that the publisher signed, not by the clock.
    frozen = scene.evil
    scene.world.later(days=20)
    refresh(scene.world.repository)
    scene.world.forget("daisy")
    scene.device.clock_is = IN_1971
    stick = scene.world.root / "list.json"
    stick.write_bytes((scene.world.public / FORGET_FILE).read_bytes())
    assert scene.device.update(stick).outcome == "forget-list"
    scene.device.learn_time(scene.world.now)
    scene.wipe_cache()
    report = scene.attack(frozen)
    assert "expired" in str(report.problem)
    scene.recover()


def test_a_clock_at_2099_obeys_and_says_what_is_wrong(scene: Scene) -> None:
    scene.device.clock_is = IN_2099
    scene.world.forget("daisy")
    report = scene.ask()
    assert report.outcome == "failed"
    assert "set this device's clock" in str(report.problem)
    assert scene.device.answers == {"tulip", "violet"}
    # And it leaves nothing behind: with its clock set, the device updates.
    scene.device.clock_is = None
    scene.recover()


@pytest.mark.parametrize("clock", [None, IN_1971, IN_2099], ids=["right", "1971", "2099"])
@pytest.mark.parametrize("age", AGES)
def test_a_copy_in_a_directory(scene: Scene, age: str, clock: datetime | None) -> None:
    scene.world.publish("daisy", "tulip")
    scene.world.forget("daisy")
    stick = scene.world.copy_of_public("stick")
    scene.world.later(days=AGES[age].days)
    scene.device.clock_is = clock
    report = scene.device.update(stick)
    assert (report.outcome, report.problem) == ("updated", None)
    assert scene.device.answers == {"tulip"}
    # Freshness is not claimed; that it is not older than what was seen is.
    report = scene.device.update(scene.old)
    assert isinstance(report.error, RepositoryError)
    assert scene.device.answers == {"tulip"}
    if clock is not IN_2099:
        refresh(scene.world.repository)
        scene.recover()


def test_a_publisher_issues_nothing_in_the_future(scene: Scene) -> None:
    with pytest.raises(UpdateError, match="set the clocks"):
        scene.world.publish("daisy", issued_at=IN_2099)


def test_a_bundle_of_2099(scene: Scene) -> None:
    # A thief's: it may be installed, and must not stop the time for this device.
    thief = scene.thief("bundles", *ONLINE)
    bundle = scene.world.bundle("daisy", "tulip", sequence=3, issued_at=IN_2099)
    data = bundle.signed_by(scene.world.key("bundles"))
    release = Release(1, 3, bundle.statement_digest, bundle_target(MODEL_ID, 1, 3))
    thief.add_target(release.target, data.to_bytes(), role="bundles")
    channel = Channel(MODEL_ID, release).to_bytes()
    thief.add_target(channel_target(MODEL_ID), channel, role="bundles")
    thief.publish("bundles")
    scene.follow(scene.evil)
    _require_time_goes_on(scene)


def test_a_forget_list_of_2099(scene: Scene) -> None:
    thief = scene.thief("forget", *ONLINE)
    time = "2099-01-01T00:00:00Z"
    row = ForgetRow(class_ids("rose")[0], "0" * 16, "request", time)
    text = ForgetList(3, time, (row,)).seal([scene.world.key("forget")])
    thief.add_target(FORGET_FILE, text, role="forget")
    thief.publish("forget")
    scene.follow(scene.evil, to="up-to-date")
    _require_time_goes_on(scene)


def _require_time_goes_on(scene: Scene) -> None:
    known = scene.device.memory.repository()
    assert known is not None
    assert known.time is not None
    assert known.time < "2098"
    for role in (Role.FORGET, *map(Role, ONLINE)):
        scene.world.rotate(role)
    scene.world.publish("tulip", sequence=9)
    scene.follow()
    assert scene.device.answers == {"tulip"}


def test_a_rollout_of_the_future_is_not_taken_before_its_time(scene: Scene) -> None:
    begin = (scene.world.now + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    scene.world.publish("daisy", rollout=RolloutRequest(100, not_before=begin))
    scene.follow(to="not-included")
    scene.device.clock_is = IN_1971
    scene.follow(to="not-included")
    scene.device.clock_is = None
    scene.world.later(days=1)
    scene.follow()


def test_a_forget_list_for_ids_that_nobody_knows(scene: Scene) -> None:
    ids = [f"{number:032x}" for number in range(1000, 1003)]
    forget(scene.world.repository, ids, unknown=True)
    report = scene.ask()
    assert report.forgotten is not None
    assert (report.forgotten.rows, report.forgotten.absent) == (4, 3)
    assert report.waiting == 4  # receipts: one is of the class that was here
    assert scene.ask().waiting == 4
    assert scene.device.answers == STAY
    scene.recover()


@pytest.mark.parametrize("by", ["file", "fixed name"])
def test_a_forget_list_before_the_bundle_that_has_the_class(scene: Scene, by: str) -> None:
    # A mirror that is behind still offers it; the order came by another way, or by its fixed name.
    late = scene.world.device("late")
    late.forgotten = {"rose"}
    scene.server.folder = scene.old
    scene.server.answers["targets/channel/*"] = refusing(404)  # it learns whom to trust, no more
    assert late.update(scene.server.url).outcome == "failed"
    scene.server.answers.clear()
    if by == "file":
        assert late.update(scene.world.public / FORGET_FILE).forgotten is not None
    else:
        mixed = scene.world.root / "mixed"
        mixed.mkdir()
        (mixed / FORGET_FILE).write_bytes((scene.world.public / FORGET_FILE).read_bytes())
        scene.server.folder = mixed
        report = late.update(scene.server.url)
        assert (report.outcome, report.forgotten is None) == ("failed", False)
    scene.server.folder = scene.old
    report = late.update(scene.server.url)
    assert (report.outcome, report.problem) == ("updated", None)
    assert late.answers == STAY
    scene.server.folder = scene.world.public
    assert late.update(scene.server.url).outcome == "updated"
    assert late.answers == STAY


def test_an_old_forget_list_again_and_again_is_harmless(scene: Scene) -> None:
    lists = [scene.old / FORGET_FILE, scene.world.public / FORGET_FILE]
    ledger = scene.device.state / "ledger.jsonl"
    before = ledger.read_bytes()
    for each in lists * 2:
        assert scene.device.update(each).outcome == "forget-list"
    assert ledger.read_bytes() == before
    assert scene.device.answers == STAY
    scene.recover()


def test_a_class_that_was_forgotten_here_stays_so_whatever_is_published(scene: Scene) -> None:
    scene.device.forget("violet")
    scene.follow(to="up-to-date")
    scene.world.publish("tulip", "violet")
    scene.follow()
    assert scene.device.answers == {"tulip"}


def test_an_update_that_waited_for_another_knows_what_that_learnt(scene: Scene) -> None:
    old = scene.world.copy_of_public("stale")
    cache = scene.device.state / "ota"
    holding = Cache(cache).alone(timeout=1.0, sleep=time.sleep)
    holding.__enter__()

    def sleep(_: float) -> None:
        if scene.server.folder != old:
            holding.__exit__(None, None, None)
            scene.world.rotate(Role.ROOT)
            scene.follow()
            shutil.rmtree(cache / "metadata")
            scene.server.folder = old

    scene.server.folder = scene.world.public
    report = scene.device.update(scene.server.url, sleep=sleep)
    assert "old copy" in str(report.problem)
    scene.device.require_root(2)


# --- caches in between that are behind: it passes by itself


def test_a_cache_that_holds_back_the_newer_root(scene: Scene) -> None:
    scene.world.rotate(Role.TIMESTAMP)
    scene.server.answers["metadata/2.root.json"] = refusing(404)
    report = scene.attack(scene.world.public)
    assert "a cache in between may hold back the newer root" in str(report.problem)
    assert report.exit_code == 75
    scene.recover()


def test_an_edge_that_is_behind_another(scene: Scene) -> None:
    behind = (scene.world.public / "metadata" / "timestamp.json").read_bytes()
    refresh(scene.world.repository)
    scene.follow(to="up-to-date")
    scene.server.answers["metadata/timestamp.json"] = giving(behind)
    report = scene.attack(scene.world.public)
    assert "it is an old copy; a server or cache in between is behind" in str(report.problem)
    assert report.exit_code == 75
    scene.recover()


# --- a publisher whose repository was restored from a backup: numbers are there twice


def _set_back(scene: Scene, *labels: str) -> None:
    """Let the device follow what the publisher then knows nothing of any more."""
    world, kept = scene.world, scene.world.root / "backup"
    shutil.copytree(world.root / "repo", kept / "repo")
    shutil.copy(world.root / "classes.json", kept)
    if labels:
        world.publish(*labels)
    else:
        refresh(world.repository)
    scene.follow(to="updated" if labels else "up-to-date")
    shutil.rmtree(world.root / "repo")
    shutil.copytree(kept, world.root, dirs_exist_ok=True)
    for mark in world.root.glob("*.ota-mark"):  # or it would refuse to go on
        mark.unlink()


@pytest.mark.parametrize(
    ("days", "refreshes"), [(0, 0), (8, 0), (0, 1)], ids=["timestamp", "expired", "snapshot"]
)
def test_a_version_with_other_bytes_is_no_version_that_is_here(
    scene: Scene, days: int, refreshes: int
) -> None:
    _set_back(scene, "daisy", "tulip")
    scene.world.later(days=days)
    scene.world.forget("daisy")
    for _ in range(refreshes):  # the timestamp is a new one then, and names the snapshot's number
        refresh(scene.world.repository)
    scene.device.forgotten.add("daisy")
    report = scene.ask()
    assert report.forgotten is not None
    assert report.forgotten.applied == 1
    assert "states two bundles" in str(report.problem)
    assert scene.device.answers == {"tulip"}
    scene.world.publish("violet")
    scene.follow()
    assert scene.device.answers == {"violet"}
    assert scene.ask().requests == 2


def test_where_a_version_is_there_twice_the_plain_list_holds_beside_the_other(
    scene: Scene,
) -> None:
    _set_back(scene)
    scene.world.forget("daisy")
    plain = scene.world.public / FORGET_FILE
    listed = ForgetList.parse(plain.read_bytes(), None)
    also = ForgetRow(class_ids("tulip")[0], "order-9", "request", listed.issued_at)
    rows = tuple(sorted((*listed.rows, also), key=lambda row: row.class_id))
    more = ForgetList(listed.number + 1, listed.issued_at, rows)
    plain.write_bytes(more.seal([scene.world.key("forget")]))
    report = scene.ask()
    assert report.problem is None
    assert report.forgotten is not None
    assert (report.forgotten.number, report.forgotten.applied) == (listed.number + 1, 2)
    assert scene.device.answers == {"violet"}


def test_a_cache_that_keeps_the_other_bytes_of_a_version_fails_and_brings_the_list(
    scene: Scene,
) -> None:
    _set_back(scene, "daisy", "tulip")
    stale = scene.device.state / "ota" / "metadata" / "snapshot.json"
    scene.server.answers["metadata/*.snapshot.json"] = giving(stale.read_bytes())
    scene.world.forget("daisy")
    refresh(scene.world.repository)
    scene.device.forgotten.add("daisy")
    report = scene.ask()
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert "the publisher used a version twice" in str(report.problem)
    assert report.forgotten is not None
    assert report.forgotten.applied == 1
    scene.server.answers.clear()
    scene.world.publish("violet")
    scene.follow()
