"""The device's client does what TUF's specification says, judged from outside.

Each test changes a repository, runs the driver's commands and looks at exit codes, at the metadata
that the client keeps and at what it asked for. Sections are those of TUF's specification, 5.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

from tests.conformance import tuf_client
from tests.support.ota_conformance import ALL_AT_1, LONG_AGO, Stage
from tests.support.ota_forge import Forge, new_signer
from tests.support.ota_server import FileServer, endless, quoted


def test_the_commands_as_the_public_suite_calls_them(tmp_path: Path, server: FileServer) -> None:
    def process(arguments: Any) -> int:
        command = [sys.executable, tuf_client.__file__, *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode

    stage = Stage(tmp_path, server, process)
    assert stage.init() == 0
    assert server.gets == []
    stage.forge.add_target("path/to/a", b"content")
    stage.forge.publish("targets")
    assert stage.download("path/to/a") == 0
    assert stage.trusted == {"root": 1, "snapshot": 2, "targets": 2, "timestamp": 2}
    assert stage.downloaded == {b"content"}
    assert stage.download("path/to/b") == 1
    stage.forge.timestamp.version = 1
    stage.forge.write("timestamp")
    assert stage.refresh() == 1


def test_a_refresh_asks_in_the_order_of_the_specification(stage: Stage) -> None:
    assert stage.refresh() == 0
    assert stage.asked == ["2.root", "timestamp", "1.snapshot", "1.targets"]
    assert stage.trusted == ALL_AT_1
    assert stage.refresh() == 0
    assert stage.asked == ["2.root", "timestamp"]  # nothing that it has is asked for again


def test_without_consistent_snapshots_no_version_is_in_a_name(
    tmp_path: Path, server: FileServer
) -> None:
    stage = Stage(tmp_path, server, tuf_client.main)
    stage.forge = Forge.create(server.folder, consistent=False)
    assert stage.init(stage.forge.path("root", 1).read_bytes()) == 0
    stage.forge.add_target("a", b"content")
    stage.forge.publish("targets")
    assert stage.download("a") == 0
    assert stage.asked == ["2.root", "timestamp", "snapshot", "targets"]


def test_a_download_refreshes_though_there_is_no_such_target(stage: Stage) -> None:
    assert stage.download("nothing") == 1
    assert stage.trusted == ALL_AT_1


def test_fields_that_nobody_knows_are_kept_and_signed(stage: Stage) -> None:
    stage.forge.root.unrecognized_fields["note"] = {"a": [1, 2]}
    stage.forge.publish_root()
    assert stage.refresh() == 0
    assert stage.trusted["root"] == 2


# 5.4 to 5.6: timestamp, snapshot, targets


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_expired_role(stage: Stage, role: str) -> None:
    assert stage.refresh() == 0
    stage.forge.md[role].signed.expires = LONG_AGO
    stage.forge.publish(*({role} - {"timestamp", "snapshot"}))
    assert stage.refresh() == 1
    assert stage.trusted[role] == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_of_another_key(stage: Stage, role: str) -> None:
    assert stage.refresh() == 0
    stage.forge.signers[role] = [new_signer()]
    stage.forge.publish(*({role} - {"timestamp", "snapshot"}))
    assert stage.refresh() == 1
    assert stage.trusted[role] == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_under_its_threshold(stage: Stage, role: str) -> None:
    stage.forge.root.add_key(new_signer().public_key, role)
    stage.forge.root.roles[role].threshold = 2
    stage.forge.publish_root()
    assert stage.refresh() == 1
    assert role not in stage.trusted


def test_a_signature_counts_once_for_a_threshold(stage: Stage) -> None:
    stage.forge.root.add_key(new_signer().public_key, "timestamp")
    stage.forge.root.roles["timestamp"].threshold = 2
    stage.forge.publish_root()
    path = stage.forge.path("timestamp")
    twice = json.loads(path.read_bytes())
    twice["signatures"] *= 2
    path.write_text(json.dumps(twice))
    assert stage.refresh() == 1
    assert "timestamp" not in stage.trusted


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_every_kind_of_key(stage: Stage, kind: str) -> None:
    signer: CryptoSigner = getattr(CryptoSigner, f"generate_{kind}")()
    stage.forge.root.add_key(signer.public_key, "snapshot")
    stage.forge.root.revoke_key(stage.forge.signers["snapshot"][0].public_key.keyid, "snapshot")
    stage.forge.signers["snapshot"] = [signer]
    stage.forge.publish_root()
    stage.forge.publish()
    assert isinstance(signer.public_key, SSlibKey)
    assert stage.refresh() == 0


def _timestamp_back(forge: Forge) -> None:
    forge.timestamp.version = 1
    forge.write("timestamp")


def _snapshot_back(forge: Forge) -> None:
    forge.snapshot.version = 1
    forge.write("snapshot")
    forge.timestamp.version += 1
    forge.write("timestamp")


def _targets_back(forge: Forge) -> None:
    forge.targets().version = 1
    forge.write("targets")
    forge.publish()


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("going_back", [_timestamp_back, _snapshot_back, _targets_back])
def test_a_rollback(stage: Stage, going_back: Callable[[Forge], None], hashes: bool) -> None:
    stage.forge.hashes = hashes
    stage.forge.publish("targets")
    assert stage.refresh() == 0
    going_back(stage.forge)
    assert stage.refresh() == 1
    role = going_back.__name__.split("_")[1]
    assert stage.trusted[role] == 2


def test_the_same_version_with_other_contents_changes_nothing(stage: Stage) -> None:
    assert stage.refresh() == 0
    stage.forge.snapshot.version = 100
    stage.forge.write("snapshot")
    stage.forge.write("timestamp")  # still version 1
    assert stage.refresh() == 0
    assert stage.trusted == ALL_AT_1


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_new_keys_recover_from_a_version_that_ran_away(stage: Stage, role: str) -> None:
    stage.forge.md[role].signed.version = 2**31
    stage.forge.write(role)
    stage.forge.write("timestamp")
    assert stage.refresh() == 0
    assert stage.trusted[role] == 2**31
    stage.forge.rotate("snapshot")
    stage.forge.rotate("timestamp")
    stage.forge.publish_root()
    stage.forge.snapshot.version = stage.forge.timestamp.version = 1
    stage.forge.publish()
    assert stage.refresh() == 0
    assert stage.trusted[role] == 2


def _another_snapshot(forge: Forge) -> None:
    forge.publish()
    forge.snapshot.expires += timedelta(days=1)
    forge.path("snapshot").write_bytes(forge.sign("snapshot"))


def _other_targets(forge: Forge) -> None:
    forge.publish("targets")
    forge.add_target("a", b"evil")
    forge.path("targets").write_bytes(forge.sign("targets"))


def _targets_of_another_version(forge: Forge) -> None:
    forge.hashes = False
    forge.publish("targets")
    forge.path("targets").write_bytes(forge.path("targets", 1).read_bytes())


def _a_snapshot_of_another_version(forge: Forge) -> None:
    forge.hashes = False
    forge.publish()
    forge.path("snapshot").write_bytes(forge.path("snapshot", 1).read_bytes())


def _a_snapshot_without_targets(forge: Forge) -> None:
    forge.publish()
    del forge.snapshot.meta["targets.json"]
    forge.publish()


@pytest.mark.parametrize(
    "mixing",
    [
        _another_snapshot,
        _other_targets,
        _targets_of_another_version,
        _a_snapshot_of_another_version,
        _a_snapshot_without_targets,
    ],
)
def test_mix_and_match(stage: Stage, mixing: Callable[[Forge], None]) -> None:
    assert stage.refresh() == 0
    mixing(stage.forge)
    assert stage.refresh() == 1
    assert stage.trusted["targets"] == 1


@pytest.mark.parametrize("role", ["2.root", "timestamp", "1.snapshot", "1.targets"])
def test_endless_metadata(stage: Stage, role: str) -> None:
    stage.server.answers[f"metadata/{role}.json"] = endless(b"{")
    assert stage.refresh() == 1
    assert stage.server.sent < 2**24


# 5.6.7 and 5.7: delegations and targets


def test_delegations_are_searched_in_their_order_and_ended_by_a_terminating_one(
    stage: Stage,
) -> None:
    forge = stage.forge
    forge.delegate("one", ["a/*"], terminating=False)
    forge.delegate("two", ["a/b", "c/*"])
    forge.delegate("three", ["*/*"])
    forge.delegate("deep", ["a/x"], parent="one")
    forge.add_target("a/b", b"of two", role="two")
    forge.add_target("c/d", b"of three", role="three")
    forge.publish("deep", "one", "two", "three", "targets")
    assert stage.download("a/b") == 0
    assert stage.asked[3:] == ["2.targets", "1.one", "1.two"]
    assert stage.fetched == ["b"]
    assert stage.download("c/d") == 1  # two is asked, knows it not, and ends the search
    assert stage.asked == ["2.root", "timestamp"]
    assert stage.download("a/x") == 1
    assert stage.asked == ["2.root", "timestamp", "1.deep"]  # which ends it as well


def test_delegations_in_a_circle_are_visited_once(stage: Stage) -> None:
    stage.forge.delegate("one", ["*"], terminating=False)
    stage.forge.delegate("two", ["*"], parent="one", terminating=False)
    stage.forge.delegate("one", ["*"], parent="two", terminating=False)
    stage.forge.targets().add_key(stage.forge.signers["one"][0].public_key, "one")
    stage.forge.publish("two", "one", "targets")
    assert stage.download("a") == 1
    assert stage.asked[3:] == ["2.targets", "1.one", "1.two"]


@pytest.mark.parametrize("role", ["?", "#", "../one", "/one", "a b", "ü"])
def test_a_role_with_an_odd_name_stays_where_it_belongs(stage: Stage, role: str) -> None:
    stage.forge.delegate(role, ["*"])
    stage.forge.add_target("a", b"content", role=role)
    stage.forge.publish(role, "targets")
    stage.server.answers["metadata/1.*"] = quoted
    assert stage.download("a") == 0
    assert role in stage.trusted
    assert len(stage.trusted) == 5


def test_what_was_downloaded_is_not_fetched_again_until_it_changes(stage: Stage) -> None:
    stage.forge.add_target("folder/a", b"one")
    stage.forge.publish("targets")
    assert stage.download("folder/a") == 0
    assert stage.download("folder/a") == 0
    assert stage.fetched == []
    stage.forge.add_target("folder/a", b"two")
    stage.forge.publish("targets")
    assert stage.download("folder/a") == 0
    assert stage.downloaded == {b"two"}


@pytest.mark.parametrize("data", [b"tenx", b"te", b"longer than ten"])
def test_a_target_that_is_not_what_was_signed(stage: Stage, data: bytes) -> None:
    path = stage.forge.add_target("a", b"tens")
    stage.forge.publish("targets")
    path.write_bytes(data)
    assert stage.download("a") == 1
    assert stage.downloaded == set()


@pytest.mark.parametrize("name", ["../a", "/a", "b/../../a", "%2e%2e/a"])
def test_a_target_never_lands_outside(stage: Stage, tmp_path: Path, name: str) -> None:
    before = {path for path in tmp_path.rglob("*") if "client-" not in str(path)}
    stage.forge.targets().targets[name] = stage.forge.target(name, b"evil")
    stage.forge.publish("targets")
    stage.server.answers["*evil*"] = stage.server.answers["*a"] = lambda to: to.give(b"evil")
    stage.download(name)
    published = {path for path in tmp_path.rglob("*") if "repository" in path.parts}
    assert {
        path for path in tmp_path.rglob("*") if "client-" not in str(path)
    } - published <= before
