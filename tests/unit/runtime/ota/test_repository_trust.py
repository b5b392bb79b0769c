"""What TUF's client leaves to its user, point by point; and what we do about it takes effect."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.ngclient import Updater

from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.report import UpdateReport
from pfm_edge_runtime.ota.root import read_root
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState, RepositoryTrust
from tests.support.ota_server import FileServer
from tests.support.tiny_package import LABELS, TinyPackage
from tests.support.tuf_repository import EXPIRES, Publisher, clock
from tests.unit.runtime.ota.conftest import Update

LATER = EXPIRES + timedelta(days=60)


@pytest.fixture
def online(publisher: Publisher, update: Update) -> Any:
    """Return what updates over the network, at a given time."""
    with FileServer(publisher.public) as server:

        def run(now: datetime | None = None, **options: Any) -> UpdateReport:
            return update(server.url, clock=clock if now is None else lambda: now, **options)

        run.server = server  # type: ignore[attr-defined]
        yield run


def _wipe(device: DeviceState) -> None:
    shutil.rmtree(device.updates_directory)


# --- 1. a wiped cache and an old mirror


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "bundles", "forget"])
def test_no_role_goes_back_behind_a_wiped_cache(
    role: str, publisher: Publisher, device: DeviceState, online: Any
) -> None:
    publisher.publish(sequence=2)
    publisher.forge.publish("targets")
    publisher.forget(["cd" * 16])  # type: ignore[list-item]
    assert online().problem is None
    old = publisher.forge.md[role].signed.version
    publisher.forge.publish(*({role} & {"targets", "bundles", "forget"}))
    assert online().problem is None
    # Whoever holds every online key could sign the version before once more.
    publisher.forge.md[role].signed.version = old
    if role in {"targets", "bundles", "forget"}:
        publisher.forge.write(role)
        publisher.forge.publish()
    elif role == "snapshot":
        publisher.forge.write("snapshot")
        publisher.forge.timestamp.version += 1
        publisher.forge.write("timestamp")
    else:
        publisher.forge.write("timestamp")
    _wipe(device)
    report = online()
    assert report.outcome == "failed"
    assert f"{role}.json is version {old}, and this device has seen {old + 1}" in str(
        report.problem
    )


def test_an_old_mirror_still_brings_its_forget_list(
    publisher: Publisher, device: DeviceState, online: Any, tmp_path: Path
) -> None:
    publisher.publish(sequence=2)
    shutil.copytree(publisher.public, tmp_path / "mirror")
    publisher.publish(sequence=3)
    assert online().outcome == "updated"
    _wipe(device)
    late = publisher.forget(["cd" * 16])  # type: ignore[list-item]
    (tmp_path / "mirror" / "forget.json").write_bytes(late)
    online.server.folder = tmp_path / "mirror"
    report = online()
    assert "it is an old copy" in str(report.problem)
    assert report.exit_code == 75
    assert (report.forgotten.rows, report.forgotten.absent) == (1, 1)
    assert report.place.sequence == 3


def test_floors_begin_anew_under_new_keys_and_under_no_others(
    publisher: Publisher, device: DeviceState, online: Any
) -> None:
    publisher.publish(sequence=2)
    publisher.forge.timestamp.version = 2**31 - 1  # a thief's: it would hold for ever
    publisher.forge.write("timestamp")
    assert online().problem is None
    publisher.forge.timestamp.version = 5
    publisher.forge.write("timestamp")
    assert "timestamp" in str(online().problem)
    old = publisher.forge.rotate("timestamp")
    publisher.forge.publish_root()
    publisher.forge.publish()
    assert old
    report = online()
    assert report.problem is None
    known = device.repository()
    assert known is not None
    assert known.floors["timestamp"].version == 6
    assert json.loads(known.root)["signed"]["version"] == 2


# --- 2. the clock


def test_the_reference_time_takes_effect(publisher: Publisher, tmp_path: Path) -> None:
    """It is no public interface: this fails if TUF's client ever asks the clock another way."""
    publisher.publish(sequence=2)
    updater = Updater(
        str(tmp_path / "metadata"),
        publisher.public.as_uri(),
        bootstrap=publisher.root,
        fetcher=_files(publisher.public),
    )
    assert isinstance(updater._trusted_set.reference_time, datetime)
    updater._trusted_set.reference_time = LATER
    with pytest.raises(Exception, match="expired"):
        updater.refresh()


def test_what_has_expired_is_refused_and_what_cannot_be_known_to_be_is_not(
    publisher: Publisher, online: Any
) -> None:
    publisher.publish(sequence=2)
    year = {"1971": datetime(1971, 1, 1, tzinfo=UTC), "2099": datetime(2099, 1, 1, tzinfo=UTC)}
    report = online(year["2099"])
    assert report.outcome == "failed"
    assert "expired, and here it is 2099-01-01T00:00:00Z: set this device's clock" in report.problem
    assert online(year["1971"]).outcome == "updated"


def test_a_time_that_has_passed_for_certain_outlives_the_local_clock(
    publisher: Publisher, device: DeviceState, online: Any
) -> None:
    publisher.publish(sequence=2)
    publisher.forget([], issued_at="2026-12-20T00:00:00Z")
    past = datetime(1971, 1, 1, tzinfo=UTC)
    assert online(past).outcome == "updated"
    known = device.repository()
    assert known is not None
    assert known.time == "2026-12-20T00:00:00Z"
    # A mirror that was frozen before that is known by what it says itself.
    publisher.forge.timestamp.expires = datetime(2026, 12, 19, tzinfo=UTC)
    publisher.forge.publish()
    assert "a clock was wrong once, and the publisher must run pfm-edge ota rotate-key" in str(
        online(past).problem
    )


def test_the_local_clock_never_raises_the_floor(
    device: DeviceState, online: Any, publisher: Any
) -> None:
    publisher.publish(sequence=2)
    assert online(EXPIRES - timedelta(hours=1)).outcome == "updated"
    known = device.repository()
    assert known is not None
    assert known.time == "2026-11-24T10:00:00Z"


def test_a_time_far_ahead_is_capped_before_the_timestamp_expires(
    publisher: Publisher, device: DeviceState, online: Any
) -> None:
    publisher.publish(sequence=2, issued_at=datetime(2099, 1, 1, tzinfo=UTC))
    publisher.forget([], issued_at="2099-01-01T00:00:00Z")
    assert online().outcome == "updated"
    known = device.repository()
    assert known is not None
    assert known.time == "2026-12-24T09:59:59Z"
    assert online().outcome == "up-to-date"


def test_metadata_that_expired_by_what_came_with_it_is_refused(
    publisher: Publisher, online: Any
) -> None:
    publisher.publish(sequence=2)
    publisher.forge.targets("bundles").expires = datetime(2026, 12, 1, tzinfo=UTC)
    publisher.forge.publish("bundles")
    publisher.forget(["cd" * 16], issued_at="2026-12-02T00:00:00Z")  # type: ignore[list-item]
    report = online(datetime(1971, 1, 1, tzinfo=UTC))
    assert "bundles" in report.problem
    assert "expired" in report.problem
    assert report.forgotten.absent == 1  # which is how it came to know the time


# --- 3. durability and 4. what need not be fetched


def test_nothing_is_kept_but_small_files_and_the_purged_bundle(
    publisher: Publisher, device: DeviceState, online: Any, tiny: TinyPackage
) -> None:
    gone = tiny.class_id("rose")
    publisher.forget([gone])
    made = publisher.bundle(sequence=2)
    publisher.rows.clear()  # the publisher forgets to leave it out
    whole = publisher.bundle(sequence=3)
    publisher.publish(whole)
    assert gone in whole.class_ids
    assert gone not in made.class_ids
    assert online().outcome == "updated"
    kept = (
        b"".join(path.read_bytes() for path in device.directory.rglob("*") if path.is_file())
        + tiny.bundle_path.read_bytes()
    )
    rows = whole.tensors["prompt_values"][whole.class_ids.index(gone)].tobytes()
    assert rows in whole.to_bytes()
    assert rows not in kept


def test_a_poll_costs_two_requests_also_after_a_local_forget(
    publisher: Publisher, online: Any, tiny: TinyPackage
) -> None:
    from pfm_edge_runtime.forgetting import forget_classes

    publisher.publish(sequence=2)
    assert online().outcome == "updated"
    forget_classes(tiny.directory, [tiny.class_id("daisy")])
    online.server.forget_requests()
    report = online()
    assert (report.outcome, report.requests) == ("up-to-date", 2)
    assert online.server.gets == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert online.server.requests[0].connection == online.server.requests[1].connection


def test_a_rejected_bundle_is_not_fetched_again_until_something_changes(
    publisher: Publisher, device: DeviceState, online: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pfm_edge_runtime.ota import _rejected

    bad = publisher.bundle(sequence=2)
    publisher.bundle_keys = [SigningKey.generate()]  # whose signature counts for nothing
    publisher.publish(publisher.bundle(sequence=2))
    assert bad is not None
    first = online()
    assert (first.outcome, first.exit_code) == ("rejected", 1)
    assert "step 3" in str(first.problem)
    online.server.forget_requests()
    again = online()
    assert (again.outcome, again.requests) == ("rejected", 2)
    assert "was rejected by this device before" in str(again.problem)
    monkeypatch.setattr(_rejected, "software", lambda: "pfm-edge-runtime 9")
    assert "step 3" in str(online().problem)
    (device.updates_directory / "rejected.json").write_bytes(b"\0\0")
    assert "step 3" in str(online().problem)


@pytest.mark.parametrize("name", ["timestamp", "snapshot", "targets", "bundles", "forget"])
@pytest.mark.parametrize("torn", [b"", b"\0" * 5, b'{"signed":{"_type":"targets"}}'])
def test_a_torn_cache_is_fetched_again(
    publisher: Publisher, device: DeviceState, online: Any, name: str, torn: bytes
) -> None:
    publisher.publish(sequence=2)
    assert online().outcome == "updated"
    (device.updates_directory / "metadata" / f"{name}.json").write_bytes(torn)
    assert online().outcome == "up-to-date"
    report = online()
    assert (report.outcome, report.requests) == ("up-to-date", 2)


# --- 6. one key is one key


def _second_id(key: SSlibKey) -> SSlibKey:
    return SSlibKey("f" * 64, key.keytype, key.scheme, dict(key.keyval))


@pytest.mark.parametrize("role", ["root", "bundles", "forget"])
def test_one_key_under_two_ids_is_refused(role: str, publisher: Publisher, online: Any) -> None:
    publisher.publish(sequence=2)
    forge = publisher.forge
    (signer,) = forge.signers[role]
    assert isinstance(signer.public_key, SSlibKey)
    twin = _second_id(signer.public_key)
    delegator: Any = forge.root if role == "root" else forge.targets()
    delegator.add_key(twin, role)
    if role == "root":
        forge.publish_root()
    else:
        forge.publish("targets")
    report = online()
    assert report.outcome == "failed"
    assert "one key under two ids" in str(report.problem)
    # … and the chain of roots is not followed past such a one.
    if role == "root":
        forge.root.keys.pop(twin.keyid)
        forge.root.roles["root"].keyids.remove(twin.keyid)
        forge.publish_root()
        assert "one key under two ids" in str(online().problem)


def test_a_key_of_another_kind_cannot_sign_bundles(publisher: Publisher, online: Any) -> None:
    signer = CryptoSigner.generate_ecdsa()
    publisher.forge.signers["bundles"] = [signer]
    roles = publisher.forge.targets().delegations
    assert roles is not None
    assert roles.roles is not None
    roles.roles["bundles"].keyids = [signer.public_key.keyid]
    roles.keys[signer.public_key.keyid] = signer.public_key
    publisher.forge.publish("targets", "bundles")
    assert "is no Ed25519 key" in str(online().problem)


# --- whose bundles


def test_new_keys_leave_the_old_bundle_in_use_until_there_is_a_new_one(
    publisher: Publisher, device: DeviceState, online: Any, tiny: TinyPackage
) -> None:
    from pfm_edge_runtime.classifier import Classifier

    publisher.publish(sequence=2)
    assert online().outcome == "updated"
    channel = publisher.channel
    publisher.bundle_keys = publisher.delegate("bundles", ["bundles/*/*", "channel/*"])
    publisher.forge.publish("targets", "bundles")
    assert publisher.channel == channel
    assert online().outcome == "up-to-date"
    assert device.trust is not None
    assert device.trust.keys == {publisher.bundle_keys[0].public}
    assert {each.label for each in Classifier.open(tiny.directory).classes} == set(LABELS)
    # Another bundle that the old key signed is refused all the same.
    publisher.publish(publisher.bundle(sequence=3))
    assert online().outcome == "updated"
    assert device.trust.keys == {publisher.bundle_keys[0].public}


def test_an_epoch_above_the_root_is_refused(publisher: Publisher, online: Any) -> None:
    publisher.publish(epoch=2, sequence=1)
    report = online()
    assert "states epoch 2, and its root is version 1" in str(report.problem)
    publisher.forge.publish_root()
    publisher.forge.publish()
    assert online().outcome == "updated"


def test_a_root_that_is_none(tmp_path: Path, publisher: Publisher) -> None:
    path = tmp_path / "root.json"
    with pytest.raises(RepositoryError, match="missing"):
        read_root(path)
    path.write_bytes(publisher.root)
    assert read_root(path) == publisher.root
    for wrong in (b"{}", b"\xff", publisher.root.replace(b"2026-12", b"2027-12")):
        path.write_bytes(wrong)
        with pytest.raises(RepositoryError, match="no root that can be trusted"):
            read_root(path)
    path.write_bytes((publisher.public / "metadata" / "timestamp.json").read_bytes())
    with pytest.raises(RepositoryError, match="it is timestamp metadata"):
        read_root(path)


def test_a_device_that_is_new_learns_who_signs_forget_lists_from_a_repository_that_expired(
    publisher: Publisher, tiny: TinyPackage, device_state: Path
) -> None:
    publisher.publish(sequence=2)
    publisher.forget(["cd" * 16])  # type: ignore[list-item]
    state = DeviceState.create(device_state, trust=None, bind=False)
    state.know_repository(RepositoryTrust(publisher.root))
    with FileServer(publisher.public) as server:
        options = UpdateOptions(clock=lambda: LATER, sleep=lambda _: None)
        report = update_model(tiny.directory, open_source(server.url), state=state, options=options)
    assert "expired" in str(report.problem)
    assert report.forgotten is not None
    assert report.forgotten.absent == 1


def _files(folder: Path) -> Any:
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class Files(FetcherInterface):
        def _fetch(self, url: str) -> Any:
            path = folder / "metadata" / url.rpartition("/")[2]
            if not path.exists():
                raise DownloadHTTPError("none", 404)
            return [path.read_bytes()]

    return Files()
