"""Attacks on the metadata of a repository: none moves a device that saw better.

The device is up to date and forgot "rose"; each test is one attack, by whoever can write on the way
(a mirror, a proxy, a network) and by whoever stole some of the keys.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import MetaFile

from pfm_edge.ota import InitRequest, Role, init_repository, read_key, refresh
from pfm_edge_runtime.errors import ConfigError, RepositoryError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota.channel import Channel
from tests.support.ota_forge import new_signer
from tests.support.ota_scene import Scene, set_scene

ROLES = ("timestamp", "snapshot", "targets", "bundles", "forget")
ONLINE = ("snapshot", "timestamp")
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with set_scene(tmp_path) as scene:
        yield scene


def test_a_mirror_that_is_old_as_a_whole(scene: Scene) -> None:
    report = scene.attack(scene.old)
    assert isinstance(report.error, RepositoryError)
    scene.recover()


def test_an_old_mirror_after_the_metadata_cache_was_wiped(scene: Scene) -> None:
    scene.wipe_cache()
    report = scene.attack(scene.old)
    assert "is an old copy" in str(report.problem)
    scene.recover()


def test_an_old_mirror_below_the_floor_of_the_ledger(scene: Scene) -> None:
    # All that updates remember is gone, too; the ledger alone knows.
    scene.device.know_only_the_root()
    report = scene.ask(scene.old)
    assert report.outcome == "up-to-date"
    assert scene.server.gets[-1].startswith("targets/channel/")  # and no bundle was fetched
    assert scene.device.sequence == (1, 2)
    assert scene.device.answers == {"daisy", "tulip", "violet"}
    scene.recover()


@pytest.mark.parametrize("wiped", [False, True])
@pytest.mark.parametrize("role", ROLES)
def test_a_rollback_of_one_role(scene: Scene, role: str, wiped: bool) -> None:
    # Whoever holds the online keys puts one old file into a snapshot of today.
    scene.world.rotate(Role.FORGET, remove=False)  # new targets and forget metadata
    scene.world.publish("daisy", "tulip")
    scene.follow()
    thief = scene.thief(*ONLINE)
    if role in ONLINE:
        thief.md[role].signed.version -= 1
        thief.write(role)
        thief.timestamp.version += role == "snapshot"
        thief.write("timestamp")
    else:
        data = thief.path(role, thief.md[role].signed.version - 1).read_bytes()
        meta = MetaFile.from_data(thief.md[role].signed.version - 1, data, ["sha256"])
        thief.snapshot.meta[f"{role}.json"] = meta
        thief.publish()
    if wiped:
        scene.wipe_cache()
    report = scene.attack(scene.evil)
    assert isinstance(report.error, RepositoryError)
    assert f"its {role}.json is version" in str(report.problem) or not wiped
    scene.recover()


def test_a_rollback_of_the_root(scene: Scene) -> None:
    scene.world.rotate(Role.SNAPSHOT)
    scene.follow(to="up-to-date")
    scene.device.require_root(2)
    roots = scene.evil / "metadata"
    for version in (1, 2):
        (roots / "3.root.json").write_bytes((roots / f"{version}.root.json").read_bytes())
        scene.attack(scene.evil)
    scene.device.require_root(2)
    scene.recover()


def test_a_freeze_ends_when_the_timestamp_does(scene: Scene) -> None:
    frozen = scene.evil
    scene.world.later(days=6)
    scene.follow(frozen, to="up-to-date")
    scene.world.later(days=2)
    report = scene.attack(frozen)
    assert "timestamp.json is expired" in str(report.problem)
    assert report.forgotten is not None  # the list was obeyed all the same
    refresh(scene.world.repository)
    scene.recover()


@pytest.mark.parametrize("role", ROLES)
def test_an_expired_role(scene: Scene, role: str) -> None:
    # Its own key signed it: whoever froze it has all keys, and yet not the time.
    thief = scene.thief(*ROLES)
    thief.md[role].signed.expires = _LONG_AGO
    thief.publish(*({role} - {*ONLINE}))
    report = scene.attack(scene.evil)
    assert "expired" in str(report.problem)
    scene.recover(rotating=True)


def test_an_expired_root(scene: Scene) -> None:
    thief = scene.thief("root")
    thief.root.expires = _LONG_AGO
    thief.publish_root()
    assert "expired" in str(scene.attack(scene.evil).problem)
    # The root itself holds, so the next one must come after it.
    scene.device.require_root(1)
    scene.recover()


@pytest.mark.parametrize("role", ["snapshot", "bundles", "forget"])
def test_mix_and_match_of_two_honest_states(scene: Scene, role: str) -> None:
    scene.world.forget("daisy")
    newest = scene.world.thief(folder=scene.evil).path(role)
    newest.write_bytes(scene.world.thief(folder=scene.old).path(role).read_bytes())
    report = scene.ask(scene.evil)
    assert report.outcome == "failed"
    # The order to forget came all the same: by the metadata, or by its fixed name.
    assert scene.device.answers == {"tulip", "violet"}
    assert scene.device.sequence == (1, 2)
    scene.recover()


def test_a_new_snapshot_with_the_bundles_of_before(scene: Scene) -> None:
    thief = scene.thief(*ONLINE)
    thief.hashes = False
    scene.world.publish("daisy", "tulip")
    newer = scene.world.thief(*ONLINE)
    thief.snapshot.meta["bundles.json"] = MetaFile(newer.md["bundles"].signed.version)
    thief.publish()
    scene.attack(scene.evil)  # version 4 is promised, and is not there
    scene.recover()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_signed_by_a_stranger(scene: Scene, role: str) -> None:
    thief = scene.thief(*ONLINE)
    thief.signers[role] = [new_signer()]
    thief.publish(*({role} - {*ONLINE}))
    scene.attack(scene.evil)
    scene.recover(rotating=True)


@pytest.mark.parametrize("keys", [("root-1",), ()], ids=["one of two", "none"])
def test_a_root_rotated_under_its_threshold(scene: Scene, keys: tuple[str, ...]) -> None:
    thief = scene.thief("root", *ONLINE)
    thief.rotate("timestamp")
    own = scene.world.signers("root")[: len(keys)]
    thief.signers["root"] = [*own, new_signer()]
    thief.publish_root()
    thief.publish()
    scene.attack(scene.evil)
    scene.device.require_root(1)
    scene.recover()


def test_a_root_that_lowers_its_own_threshold_needs_the_old_one(scene: Scene) -> None:
    thief = scene.thief("root")
    thief.root.roles["root"].threshold = 1
    thief.signers["root"] = thief.signers["root"][:1]
    thief.publish_root()
    scene.attack(scene.evil)
    scene.recover()


@pytest.mark.parametrize("role", ["bundles", "forget", "timestamp"])
def test_one_key_under_two_ids(scene: Scene, role: str) -> None:
    # A publisher that asks for two signatures and lists one key twice would be signed by one.
    thief = scene.thief(*ROLES, "root")
    delegator = thief.root if role == "timestamp" else thief.targets().delegations
    assert delegator is not None
    roles = delegator.roles or {}
    keyid = roles[role].keyids[0]
    twin = "f" * 64
    delegator.keys[twin] = SSlibKey(twin, "ed25519", "ed25519", delegator.keys[keyid].keyval)
    roles[role].keyids.append(twin)
    roles[role].threshold = 2
    if role == "timestamp":
        thief.publish_root()
    thief.publish("targets")
    if role == "timestamp":
        path = thief.path("timestamp")
        text = json.loads(path.read_bytes())
        text["signatures"].append({**text["signatures"][0], "keyid": twin})
        path.write_text(json.dumps(text))
    report = scene.attack(scene.evil)
    assert "one key under two ids" in str(report.problem)
    scene.recover()


def test_a_publisher_lists_no_key_twice(tmp_path: Path, scene: Scene) -> None:
    keys = {
        role: [read_key(str(scene.world.root / "keys" / f"{name}.pem"))]
        for role, name in ((each, "root-1" if each is Role.ROOT else each) for each in Role)
    }
    keys[Role.ROOT] *= 2
    with pytest.raises(ConfigError):
        init_repository(tmp_path / "new", InitRequest(scene.world.root / "classes.json", keys))


def test_a_channel_that_leads_elsewhere(scene: Scene, tmp_path: Path) -> None:
    # Even the bundle keys cannot make a device read or write outside of the bundles' own folder.
    place = "bundles/../../../../tmp/1-9.safetensors"
    for target in (place, "/etc/passwd", "bundles/x/1-9.safetensors", ".."):
        thief = scene.thief("bundles", *ONLINE)
        (path,) = (each for each in thief.targets("bundles").targets if "channel/" in each)
        text = json.loads(Channel(ModelId("sha256:" + "5e" * 32)).to_bytes())
        text["stable"] = {"epoch": 1, "sequence": 9, "statement": "0" * 64, "target": target}
        data = json.dumps(text, separators=(",", ":"), sort_keys=True).encode()
        thief.targets("bundles").targets[target] = thief.target(target, b"evil")
        thief.add_target(path, data, role="bundles")
        thief.publish("bundles")
        before = {each for each in tmp_path.rglob("*") if scene.evil not in each.parents}
        scene.attack(scene.evil)
        assert not any("passwd" in each or ".." in each for each in scene.server.gets)
        after = {each for each in tmp_path.rglob("*") if scene.evil not in each.parents}
        assert not {each for each in after - before if "world/device/state/ota" not in str(each)}
    scene.recover(rotating=True)
