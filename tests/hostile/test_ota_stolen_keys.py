"""What a thief can do with each key, and what not; and how a publisher gets rid of the thief.

The device is up to date and forgot "rose".
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import SSlibKey

from pfm_edge.ota import Role, refresh
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.errors import VerificationError
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.manifest import BUNDLE_FILE
from pfm_edge_runtime.opening import open_model
from pfm_edge_runtime.ota.channel import Channel, Release
from pfm_edge_runtime.ota.forget_list import ForgetList, ForgetRow
from pfm_edge_runtime.ota.names import bundle_target, channel_target
from tests.support.ota_forge import Forge
from tests.support.ota_scene import Scene, set_scene
from tests.support.ota_world import class_ids, signer_of
from tests.support.tiny_package import LABELS, MODEL_ID

ONLINE = ("snapshot", "timestamp")
STAY = {"daisy", "tulip", "violet"}
_LAST_SEQUENCE = 2**53 - 1


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with set_scene(tmp_path) as scene:
        yield scene


def test_a_stolen_timestamp_key_holds_devices_up_and_does_no_more(scene: Scene) -> None:
    thief = scene.thief("timestamp")
    thief.timestamp.version = 2**31
    thief.write("timestamp")
    scene.follow(scene.evil, to="up-to-date")  # what it points to is today's
    assert scene.device.answers == STAY
    # Now every timestamp of the publisher is older than what was seen: until the key is replaced.
    scene.world.forget("daisy")
    report = scene.ask()
    assert report.outcome == "failed"
    assert scene.device.answers == {"tulip", "violet"}  # the forget list came by its fixed name
    scene.recover(rotating=True)


def test_a_stolen_timestamp_key_makes_no_snapshot(scene: Scene) -> None:
    thief = scene.thief("timestamp")
    thief.publish()  # the snapshot without a signature
    scene.attack(scene.evil)
    scene.recover(rotating=True)


def test_stolen_online_keys_forge_no_bundle(scene: Scene) -> None:
    _publish_bundle(scene.thief(*ONLINE), scene, SigningKey.generate(), (1, 3))
    scene.attack(scene.evil)
    scene.recover(rotating=True)


def test_stolen_online_keys_drop_nothing_from_the_forget_list(scene: Scene) -> None:
    thief = scene.thief(*ONLINE)
    del thief.snapshot.meta["forget.json"]
    thief.publish()
    report = scene.attack(scene.evil)
    assert report.forgotten is not None
    scene.recover(rotating=True)


def test_a_stolen_targets_key_names_new_keys_and_brings_nothing_back(scene: Scene) -> None:
    # The worst that one key can do: it may name others' keys as those of bundles. What was
    # forgotten stays forgotten even so, and the targets key is replaced with a root.
    stranger = SigningKey.generate()
    thief = scene.thief("targets", *ONLINE)
    thief.replace_delegation_key("bundles", signer_of(stranger))
    _publish_bundle(thief, scene, stranger, (1, 3))
    scene.follow(scene.evil)
    assert scene.device.answers == STAY
    for role in (Role.TARGETS, *(Role(each) for each in ONLINE)):
        scene.world.rotate(role, new_epoch=True)
    scene.follow()
    scene.recover()


@pytest.mark.parametrize("sequence", [3, _LAST_SEQUENCE])
def test_a_stolen_bundle_key_brings_nothing_back_and_a_new_epoch_recovers(
    scene: Scene, sequence: int
) -> None:
    thief, stolen = scene.thief("bundles", *ONLINE), scene.world.key("bundles")
    _publish_bundle(thief, scene, stolen, (1, sequence))
    scene.follow(scene.evil)
    assert scene.device.sequence == (1, sequence)
    assert scene.device.answers == STAY  # though "rose" was in it
    # Where the sequence ran away, nothing of this epoch comes after it.
    scene.world.publish("daisy", "tulip")
    if sequence == _LAST_SEQUENCE:
        assert scene.ask().outcome != "updated"
    scene.world.rotate(Role.BUNDLES, new_epoch=True)
    for role in ONLINE:
        scene.world.rotate(Role(role))
    scene.follow()
    assert scene.device.sequence == (2, 1)
    assert scene.device.answers == {"daisy", "tulip"}
    # The stolen key is worth nothing now, in this epoch and in those to come.
    for place in ((2, 9), (3, 1)):
        late = scene.thief(*ONLINE)
        late.md = Forge.open(scene.world.public, {}).md
        _publish_bundle(late, scene, stolen, place)
        scene.attack(scene.evil)
    scene.recover(rotating=True)


def test_a_stolen_bundle_key_cannot_jump_ahead_of_the_next_rotation(scene: Scene) -> None:
    thief = scene.thief("bundles", *ONLINE)
    _publish_bundle(thief, scene, scene.world.key("bundles"), (2, 1))
    report = scene.attack(scene.evil)
    assert "epoch 2" in str(report.problem)
    scene.recover(rotating=True)


@pytest.mark.parametrize("place", [(2, 1), (_LAST_SEQUENCE, _LAST_SEQUENCE)])
def test_a_stolen_bundle_key_cannot_jump_ahead_from_a_stick_either(
    scene: Scene, place: tuple[int, int]
) -> None:
    path = scene.device.model / BUNDLE_FILE
    old, (epoch, sequence) = path.read_bytes(), place
    made = scene.world.bundle(*LABELS, epoch=epoch, sequence=sequence)
    path.write_bytes(made.signed_by(scene.world.key("bundles")).to_bytes())
    with pytest.raises(VerificationError, match=f"step 5: it states epoch {epoch}, and the root"):
        open_model(path.parent, state=scene.device.state)
    path.write_bytes(old)
    assert scene.device.answers == STAY
    scene.recover()


def test_a_stolen_forget_key_forgets_what_it_can_name_and_no_more(scene: Scene) -> None:
    # It needs the ids; and whoever loses this key loses classes on devices, for good.
    key = scene.world.key("forget")
    (violet,) = class_ids("violet")
    row = ForgetRow(violet, "0" * 16, "request", "2026-11-24T10:00:00Z")
    (scene.evil / "forget.json").write_bytes(
        ForgetList(9, "2026-11-24T10:00:00Z", (row,)).seal([key])
    )
    scene.server.answers["metadata/*"] = lambda exchange: exchange.give(b"{}")
    assert scene.ask(scene.evil).outcome == "failed"
    assert scene.device.answers == {"daisy", "tulip"}
    scene.server.answers.clear()
    scene.world.rotate(Role.FORGET)
    scene.world.publish("daisy", "tulip")
    scene.follow()
    stolen = ForgetList(10, "2026-11-24T10:00:00Z", (replace(row, class_id=class_ids("tulip")[0]),))
    (scene.evil / "forget.json").write_bytes(stolen.seal([key]))
    scene.server.answers["metadata/*"] = lambda exchange: exchange.give(b"{}")
    assert scene.ask(scene.evil).forgotten is None
    assert scene.device.answers == {"daisy", "tulip"}


def test_metadata_without_the_forget_list_keeps_nobody_from_obeying_it(scene: Scene) -> None:
    scene.world.forget("daisy")
    thief = scene.thief("forget", *ONLINE)
    thief.targets("forget").targets.clear()
    thief.publish("forget")
    assert scene.ask(scene.evil).forgotten is not None
    assert scene.device.answers == {"tulip", "violet"}


def test_a_forged_forget_list(scene: Scene) -> None:
    (violet,) = class_ids("violet")
    row = ForgetRow(violet, "0" * 16, "request", "2026-11-24T10:00:00Z")
    listed = ForgetList(9, "2026-11-24T10:00:00Z", (row,))
    for key in (SigningKey.generate(), scene.world.key("bundles"), scene.world.key("targets")):
        text = listed.seal([key])
        (scene.evil / "forget.json").write_bytes(text)
        scene.server.answers["metadata/timestamp.json"] = lambda exchange: exchange.give(b"{}")
        assert scene.attack(scene.evil).forgotten is None
        file = scene.world.root / "list.json"
        file.write_bytes(text)
        assert scene.device.update(file).forgotten is None
        assert scene.device.answers == STAY
    scene.recover()


def test_all_keys_but_the_roots_stolen(scene: Scene) -> None:
    names = ("targets", "bundles", "forget", *ONLINE)
    thief = scene.thief(*names)
    for name in names:
        thief.md[name].signed.version = 2**30
        thief.write(name)
    _publish_bundle(thief, scene, scene.world.key("bundles"), (1, _LAST_SEQUENCE))
    scene.follow(scene.evil)
    assert scene.device.answers == STAY
    for role in (each for each in Role if each is not Role.ROOT):
        scene.world.rotate(role, new_epoch=role is Role.BUNDLES)
    assert scene.ask().error is None
    refresh(scene.world.repository)
    scene.recover()


def test_a_time_that_stolen_keys_made_up_ends_with_the_timestamp_key(scene: Scene) -> None:
    # Bundle and online keys together: devices believe that it is 2098, and so that all that the
    # publisher says has expired.
    thief = scene.thief("bundles", *ONLINE)
    for role in ("bundles", *ONLINE):
        thief.md[role].signed.expires = datetime(2099, 1, 1, tzinfo=UTC)
    key, late = scene.world.key("bundles"), datetime(2098, 1, 1, tzinfo=UTC)
    _publish_bundle(thief, scene, key, (1, 9), issued_at=late)
    scene.follow(scene.evil)
    scene.world.rotate(Role.BUNDLES, new_epoch=True)
    scene.world.rotate(Role.SNAPSHOT)
    assert "expired" in str(scene.attack(scene.world.public).problem)
    scene.world.rotate(Role.TIMESTAMP)
    scene.recover()


def test_a_key_of_a_kind_that_nobody_knows(scene: Scene) -> None:
    spki = "MAswBQYDKgMEAwIA/w=="  # a SubjectPublicKeyInfo of algorithm 1.2.3.4
    pem = f"-----BEGIN PUBLIC KEY-----\n{spki}\n-----END PUBLIC KEY-----\n"
    thief = scene.thief("targets", *ONLINE)
    delegations = thief.targets().delegations
    assert delegations is not None
    delegations.keys["ab" * 32] = SSlibKey(
        "ab" * 32, "ecdsa", "ecdsa-sha2-nistp256", {"public": pem}
    )
    thief.publish("targets")
    scene.follow(scene.evil, to="up-to-date")  # it signs for nothing


def _publish_bundle(
    thief: Forge, scene: Scene, key: SigningKey, place: tuple[int, int], **changes: Any
) -> Bundle:
    """Put a bundle with every class, the forgotten one too, in the place of the stable one."""
    epoch, sequence = place
    bundle = scene.world.bundle(*LABELS, epoch=epoch, sequence=sequence, **changes).signed_by(key)
    path = bundle_target(MODEL_ID, *place)
    release = Release(*place, bundle.statement_digest, path)
    thief.targets("bundles").targets.clear()
    thief.add_target(path, bundle.to_bytes(), role="bundles")
    channel = Channel(MODEL_ID, release)
    thief.add_target(channel_target(MODEL_ID), channel.to_bytes(), role="bundles")
    thief.publish("bundles", *({"targets"} & thief.signers.keys()))
    return bundle
