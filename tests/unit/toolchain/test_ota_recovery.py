"""What a publisher comes back from: an older copy, lost files, a clock that was wrong."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from pfm_edge._key_files import write_key_pair
from pfm_edge.ota import (
    KeyChange,
    Refreshed,
    Role,
    RolloutRequest,
    Signers,
    forget,
    publish,
    read_key,
    refresh,
    repository_state,
    restore,
    rotate_key,
    sign,
)
from pfm_edge_runtime.errors import PfmEdgeError, RepositoryError, StorageError
from pfm_edge_runtime.ota.forget_list import ForgetList
from tests.support.publisher import CLASS_IDS, Publisher
from tests.support.tiny_package import MODEL_ID

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

ROSE, VIOLET = CLASS_IDS["rose"], CLASS_IDS["violet"]


def _list(publisher: Publisher) -> ForgetList:
    return ForgetList.parse(publisher.client().target("forget.json") or b"", None)


def _swap(publisher: Publisher, role: Role) -> KeyChange:
    path = publisher.directory / "new.pem"
    write_key_pair(path, passphrase=None)
    return KeyChange((read_key(str(path)),), (publisher.keys[role][0].key_id,))


def _requires(publisher: Publisher, match: str) -> None:
    """Require that nothing is signed, and that nothing changes."""
    before = publisher.files()
    for attempt in (
        lambda: refresh(publisher.repository),
        lambda: forget(publisher.repository, [ROSE]),
        lambda: publish(publisher.repository, publisher.package(classes=2)),
        lambda: rotate_key(publisher.repository, Role.TARGETS, _swap(publisher, Role.TARGETS)),
    ):
        with pytest.raises(RepositoryError, match=match):
            attempt()
        for each in ("new.pem", "new.pub"):
            (publisher.directory / each).unlink(missing_ok=True)
    after = publisher.files()
    del before["repository.json"], after["repository.json"]  # where a new key lies
    assert after == before
    assert any(match in each for each in repository_state(publisher.repository).problems)


# --- an older copy ------------------------------------------------------------------------------


def test_an_older_copy_signs_nothing_and_goes_on_above_what_was_signed(
    publisher: Publisher,
) -> None:
    put_back = publisher.backup()
    forget(publisher.repository, [VIOLET])
    lost = publisher.client().channel(MODEL_ID).stable
    put_back()
    _requires(publisher, "bundles is version 2 here, and version 3 was signed already")
    outcome = restore(publisher.repository)
    assert any(f"class {VIOLET} is ordered again" in each for each in outcome.notes)
    bundle = publisher.client().bundle(MODEL_ID)  # the client that saw what was lost
    assert lost is not None
    assert (bundle.statement.epoch, bundle.statement.sequence) == (1, lost.sequence + 1)
    assert VIOLET not in bundle.class_ids
    found = _list(publisher)
    assert (found.number, [(each.class_id, each.reason) for each in found.rows]) == (
        3,
        [(VIOLET, "other")],
    )
    assert repository_state(publisher.repository).problems == ()
    assert forget(publisher.repository, [ROSE]).committed
    assert ROSE not in publisher.client().bundle(MODEL_ID).class_ids
    with pytest.raises(RepositoryError, match="nothing here shows"):
        restore(publisher.repository)


def test_metadata_alone_that_is_older_than_what_is_served(publisher: Publisher) -> None:
    put_back = publisher.backup("metadata")
    publish(publisher.repository, publisher.package(classes=3))
    live = publisher.client().bundle(MODEL_ID)
    put_back()
    [mark] = publisher.directory.glob("*.ota-mark")
    mark.unlink()  # what is served says it, too
    _requires(publisher, "bundles is version 2 here, and version 3 is served")
    restore(publisher.repository)
    bundle = publisher.client().bundle(MODEL_ID)
    assert bundle.class_ids == live.class_ids  # what is truly signed is taken over
    assert bundle.statement.sequence == live.statement.sequence + 1


def test_a_model_that_an_older_copy_lacks_gets_a_place_above_its_devices(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    put_back = publisher.backup()
    for classes in (4, 3):
        publish(publisher.repository, publisher.package(classes=classes))
    put_back()
    notes = restore(publisher.repository).notes
    assert any("publish its bundle again" in each for each in notes)
    publish(publisher.repository, publisher.package())
    assert publisher.client().bundle(MODEL_ID).statement.sequence == 3


@pytest.mark.parametrize(
    ("role", "name"),
    [(Role.ROOT, "2.root.json"), (Role.BUNDLES, "2.targets.json")],
)
def test_an_older_copy_never_brings_old_keys_back(
    publisher: Publisher, role: Role, name: str
) -> None:
    put_back = publisher.backup()
    change = _swap(publisher, role)
    rotate_key(publisher.repository, role, change)
    kept = (publisher.public / "metadata" / name).read_bytes()
    put_back()
    with pytest.raises(RepositoryError, match=f"copy {name} from a mirror into .*public/metadata"):
        restore(publisher.repository)
    (publisher.public / "metadata" / name).write_bytes(kept)
    signers = publisher.repository.signers(change.add)
    assert restore(publisher.repository, signers=signers).committed
    keys = {each.role: each.keys for each in repository_state(publisher.repository).roles}
    assert change.add[0].key_id in keys[role]
    assert change.remove[0] not in keys[role]
    assert publisher.client().bundle(MODEL_ID)


def test_a_restored_repository_may_wait_for_signatures(publisher: Publisher) -> None:
    put_back = publisher.backup()
    forget(publisher.repository, [VIOLET])
    put_back()
    assert not restore(publisher.repository, signers=Signers()).committed
    with pytest.raises(RepositoryError, match="waits to be signed"):
        refresh(publisher.repository)
    assert sign(publisher.repository).committed
    assert VIOLET not in publisher.client().bundle(MODEL_ID).class_ids


def test_a_change_that_was_decided_in_an_older_copy_is_not_carried_out(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise StorageError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr("pfm_edge.ota._commit._publish", crash)
        with pytest.raises(StorageError):
            publish(publisher.repository, publisher.package(classes=3))
    [mark] = publisher.directory.glob("*.ota-mark")
    assert json.loads(mark.read_bytes())["versions"]["timestamp"] == 3  # before anybody saw it
    put_back = publisher.backup()
    forget(publisher.repository, [ROSE])  # it carries the other change out first
    put_back()
    before = publisher.files()
    _requires(publisher, "restored from an older copy")
    assert publisher.files().keys() == before.keys()
    assert restore(publisher.repository).committed
    bundle = publisher.client().bundle(MODEL_ID)
    assert (len(bundle), bundle.statement.sequence) == (3, 4)


def test_a_mark_that_is_missing_is_made_anew(publisher: Publisher) -> None:
    [mark] = publisher.directory.glob("*.ota-mark")
    before = json.loads(mark.read_bytes())
    del before["signed"]  # nothing else says when that was
    mark.unlink()
    with pytest.raises(PfmEdgeError, match="no class of the registry"):
        forget(publisher.repository, ["nothing"])
    assert json.loads(mark.read_bytes()) == before


def test_a_repository_of_before_keeps_its_roots_and_small_targets(publisher: Publisher) -> None:
    for _ in range(2):
        rotate_key(publisher.repository, Role.ROOT, KeyChange(new_epoch=True))
    metadata = publisher.repository.directory / "metadata"
    whole = publisher.files()
    for each in (1, 2, 3):
        (metadata / f"{each}.root.json").unlink()
    shutil.rmtree(metadata / "targets")
    refresh(publisher.repository)
    assert publisher.files().keys() == whole.keys()
    assert (metadata / "1.root.json").read_bytes() == whole["public/metadata/1.root.json"]
    (metadata / "2.root.json").write_bytes(b"junk")  # what is served is not overwritten by it
    assert refresh(publisher.repository).mended == ()
    assert (metadata / "2.root.json").read_bytes() == whole["public/metadata/2.root.json"]


# --- what is served -----------------------------------------------------------------------------


def _served(publisher: Publisher) -> dict[str, bytes]:
    files = publisher.files()
    return {n: d for n, d in files.items() if n.startswith("public/") and "timestamp" not in n}


@pytest.mark.parametrize(
    "name",
    [
        "metadata/2.bundles.json",
        "metadata/1.root.json",
        "metadata/1.targets.json",
        "root.json",
        "forget.json",
        "targets/channel",
        "targets/*.forget.json",
    ],
)
def test_a_refresh_puts_back_what_is_served_no_more(publisher: Publisher, name: str) -> None:
    before = _served(publisher)
    [path] = publisher.public.glob(name)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(b"junk")
    [problem] = repository_state(publisher.repository).problems
    refreshed = refresh(publisher.repository)
    assert refreshed.fresh
    assert len(refreshed.mended) == 1
    assert refreshed.mended[0].split()[0] == problem.split()[0]
    assert _served(publisher) == before
    assert refresh(publisher.repository).mended == ()


def test_a_refresh_names_a_bundle_that_it_cannot_put_back(publisher: Publisher) -> None:
    [path] = publisher.public.rglob("*.safetensors")
    whole = path.read_bytes()
    path.unlink()
    refreshed: Refreshed = refresh(publisher.repository)
    assert not refreshed.fresh
    assert [str(path) in each and "publish its classes again" in each for each in refreshed.lost]
    assert refreshed.lost == repository_state(publisher.repository).problems
    path.write_bytes(whole)
    assert refresh(publisher.repository).fresh


def test_an_order_waits_for_no_lost_bundle_and_that_never_comes_back(
    publisher: Publisher,
) -> None:
    publish(publisher.repository, publisher.package(classes=3), rollout=RolloutRequest(10))
    [path] = publisher.public.rglob("*.1-1.safetensors")
    whole = path.read_bytes()
    path.unlink()
    outcome = forget(publisher.repository, [ROSE])
    assert any("bundle 1-1" in each and "publish its classes" in each for each in outcome.notes)
    channel = publisher.client().channel(MODEL_ID)
    assert channel.stable is None
    assert channel.candidate is not None  # the other bundle goes on without the class
    assert [each.class_id for each in _list(publisher).rows] == [ROSE]
    path.write_bytes(whole)  # from a backup: it holds the class
    assert str(path) in repository_state(publisher.repository).problems[0]
    assert refresh(publisher.repository).fresh
    assert publisher.holding(publisher.trace("rose")) == []


@pytest.mark.parametrize("name", ["a.safetensors.bak", ".a.1-1.safetensors.X8s", "channel/x.tmp"])
def test_a_file_of_somebody_that_may_hold_a_class_is_named(publisher: Publisher, name: str) -> None:
    [bundle] = publisher.public.rglob("*.safetensors")
    top = publisher.public / "targets" if "/" in name else bundle.parent
    path = Path(shutil.copyfile(bundle, top / name))
    [problem] = repository_state(publisher.repository).problems
    assert str(path) in problem
    assert "may hold a class" in problem
    refreshed = refresh(publisher.repository)
    assert refreshed.fresh
    assert refreshed.strays == (problem,)
    assert path.exists()  # it is not ours to remove
    path.unlink()
    assert refresh(publisher.repository).strays == ()


def test_a_lost_bundle_is_published_again_after_its_place(publisher: Publisher) -> None:
    [path] = publisher.public.rglob("*.safetensors")
    path.unlink()
    publish(publisher.repository, publisher.package())
    assert publisher.client().bundle(MODEL_ID).statement.sequence == 2
    [path] = publisher.public.rglob("*.safetensors")
    path.unlink()
    rotated = rotate_key(publisher.repository, Role.TIMESTAMP, _swap(publisher, Role.TIMESTAMP))
    assert rotated.committed
    assert publish(publisher.repository, publisher.package()).committed
    statement = publisher.client().bundle(MODEL_ID).statement
    assert (statement.epoch, statement.sequence) == (2, 1)


@pytest.mark.parametrize("role", Role)
def test_metadata_that_is_lost_is_said_to_be(publisher: Publisher, role: Role) -> None:
    (publisher.repository.directory / "metadata" / f"{role}.json").unlink()
    for attempt in (repository_state, refresh):
        with pytest.raises(RepositoryError, match=rf"{role}\.json is missing.*from a backup"):
            attempt(publisher.repository)


# --- the clock ----------------------------------------------------------------------------------


def test_a_clock_that_is_behind_signs_nothing(publisher: Publisher) -> None:
    publisher.clock.forward(-400)
    _requires(publisher, "timestamp in force was signed at")
    publisher.clock.forward(400)
    assert refresh(publisher.repository).fresh


def test_a_clock_that_was_ahead_is_mended_by_a_new_timestamp_key(publisher: Publisher) -> None:
    publisher.clock.forward(400)
    refresh(publisher.repository)
    forget(publisher.repository, [VIOLET])
    publisher.clock.forward(-400)
    _requires(publisher, "rotate-key REPO timestamp --add NEW --remove OLD")
    swap = _swap(publisher, Role.TIMESTAMP)
    # People elsewhere sign the new root.
    assert not rotate_key(publisher.repository, Role.TIMESTAMP, swap, signers=Signers()).committed
    assert sign(publisher.repository).committed
    assert forget(publisher.repository, [ROSE]).committed
    assert refresh(publisher.repository).fresh


def test_a_clock_that_was_a_little_ahead_stops_nothing(publisher: Publisher) -> None:
    ahead = timedelta(minutes=20)
    publisher.clock.now += ahead
    forget(publisher.repository, [VIOLET])
    publisher.clock.now -= ahead
    assert repository_state(publisher.repository).problems == ()
    refreshed = refresh(publisher.repository)
    assert refreshed.fresh
    assert any("see that the clock is right" in each for each in refreshed.outcome.notes)
    publisher.clock.now += ahead
    assert not any("clock" in each for each in refresh(publisher.repository).outcome.notes)


def test_a_clock_that_was_far_ahead_stops_all_until_what_is_signed_counts(
    publisher: Publisher,
) -> None:
    publisher.clock.forward(10)
    refresh(publisher.repository)
    until = publisher.clock() - timedelta(days=7)
    publisher.clock.forward(-10)
    _requires(publisher, f"or wait until {until + timedelta(minutes=1):%Y-%m-%d %H:%M} UTC")
    publisher.clock.now = until + timedelta(minutes=1)
    assert refresh(publisher.repository).fresh


def test_fewer_days_for_the_timestamp_say_nothing_of_the_clock(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path, days={Role.TIMESTAMP: 14})
    path = publisher.repository.layout.settings
    path.write_bytes(path.read_bytes().replace(b'"timestamp": 14', b'"timestamp": 3'))
    refreshed = refresh(publisher.repository)
    assert refreshed.fresh
    assert not any("clock" in each for each in refreshed.outcome.notes)
