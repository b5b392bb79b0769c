"""New keys for every role, and what must be signed anew because of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pfm_edge._key_files import write_key_pair
from pfm_edge.ota import (
    InitRequest,
    KeyChange,
    PublisherRepository,
    Role,
    RoleKey,
    RolloutRequest,
    forget,
    init_repository,
    new_keys,
    publish,
    read_key,
    rotate_key,
    sign,
)
from pfm_edge_runtime.errors import ConfigError, RepositoryError
from tests.support.publisher import CLASS_IDS, Client, Publisher
from tests.support.tiny_package import MODEL_ID

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Return a repository that has published a bundle and one that is rolled out."""
    made = Publisher.make(tmp_path)
    publish(made.repository, made.package())
    publish(made.repository, made.package(classes=3), rollout=RolloutRequest(10))
    return made


def _new_key(publisher: Publisher, name: str = "new") -> RoleKey:
    path = publisher.directory / f"{name}.pem"
    write_key_pair(path, passphrase=None)
    return read_key(str(path))


def _swap(publisher: Publisher, role: Role) -> KeyChange:
    """Replace a role's first key; the old one is destroyed afterwards."""
    return KeyChange((_new_key(publisher),), (publisher.keys[role][0].key_id,))


@pytest.mark.parametrize("role", Role)
def test_every_role_gets_a_new_key(publisher: Publisher, role: Role) -> None:
    client_root = (publisher.public / "metadata/1.root.json").read_bytes()
    change = _swap(publisher, role)
    assert rotate_key(publisher.repository, role, change).committed
    Path(publisher.keys[role][0].source or "").unlink()
    # A device that knows only the first root walks through all of them; the next change is signed
    # by the new key alone.
    client = publisher.client()
    assert client.bundle(MODEL_ID).envelope.signers()
    assert forget(publisher.repository, [CLASS_IDS["rose"]]).committed
    again = Client(publisher.public, publisher.directory / "again", client_root)
    assert CLASS_IDS["rose"] not in again.bundle(MODEL_ID, candidate=True).class_ids
    newest = (publisher.public / "root.json").read_bytes()
    Client(publisher.public, publisher.directory / "third", newest)


def test_a_new_root_raises_the_epoch_of_all_live_bundles(publisher: Publisher) -> None:
    rotate_key(publisher.repository, Role.ROOT, _swap(publisher, Role.ROOT))
    channel = publisher.channel()
    assert channel.stable is not None
    assert channel.candidate is not None
    places = [(each.epoch, each.sequence) for each in (channel.stable, channel.candidate)]
    assert places == [(2, 1), (2, 2)]
    assert publisher.client().bundle(MODEL_ID).statement.epoch == 2


def test_a_stolen_bundle_key_is_replaced_in_a_new_epoch(publisher: Publisher) -> None:
    """It can take any place of the old epoch, and none of the new one."""
    change = _swap(publisher, Role.BUNDLES)
    stolen = publisher.keys[Role.BUNDLES][0]
    rotate_key(
        publisher.repository,
        Role.BUNDLES,
        KeyChange(change.add, change.remove, new_epoch=True),
    )
    bundle = publisher.client().bundle(MODEL_ID)
    assert (bundle.statement.epoch, bundle.statement.sequence) == (2, 1)
    assert [each.key_id for each in bundle.envelope.signatures] == [change.add[0].key_id]
    assert stolen.key_id not in {each.key_id for each in bundle.envelope.signatures}


@pytest.mark.parametrize("role", [Role.BUNDLES, Role.ROOT])
def test_a_new_epoch_waits_for_no_lost_bundle(publisher: Publisher, role: Role) -> None:
    [path] = publisher.public.rglob("*.1-1.safetensors")
    path.write_bytes(b"altered")
    change = replace(_swap(publisher, role), new_epoch=True)
    signers = publisher.repository.signers(change.add)
    outcome = rotate_key(publisher.repository, role, change, signers=signers)
    assert outcome.committed
    assert any("bundle 1-1" in each and "publish its classes" in each for each in outcome.notes)
    channel = publisher.client().channel(MODEL_ID)
    assert channel.stable is None
    assert channel.candidate is not None
    assert (channel.candidate.epoch, channel.candidate.sequence) == (2, 1)
    assert not path.exists()


def test_bundles_that_enough_keys_signed_stay_as_they_are(publisher: Publisher) -> None:
    before = publisher.channel()
    rotate_key(publisher.repository, Role.BUNDLES, KeyChange((_new_key(publisher),)))
    assert publisher.channel() == before
    # Now the first goes; what it alone has signed is issued again.
    first = publisher.keys[Role.BUNDLES][0].key_id
    rotate_key(publisher.repository, Role.BUNDLES, KeyChange(remove=(first[:12],)))
    after = publisher.channel()
    assert before.stable is not None
    assert after.stable is not None
    assert after.stable.sequence > before.stable.sequence


def test_another_threshold_needs_no_new_key(publisher: Publisher) -> None:
    rotate_key(publisher.repository, Role.FORGET, KeyChange((_new_key(publisher),)))
    outcome = rotate_key(publisher.repository, Role.FORGET, KeyChange(threshold=2))
    assert outcome.committed
    assert publisher.client().target("forget.json")


def test_a_lost_root_key_of_three_is_replaced_by_the_other_two(publisher: Publisher) -> None:
    third = _new_key(publisher, "third")
    rotate_key(publisher.repository, Role.ROOT, KeyChange((third,)))
    lost = publisher.keys[Role.ROOT][0]
    Path(lost.source or "").unlink()
    change = KeyChange((_new_key(publisher, "fourth"),), (lost.key_id,))
    assert rotate_key(publisher.repository, Role.ROOT, change).committed
    assert publisher.client().target("forget.json")


def test_a_lost_root_key_of_two_is_said_to_be_missing(publisher: Publisher) -> None:
    lost = publisher.keys[Role.ROOT][0]
    Path(lost.source or "").unlink()
    change = KeyChange((_new_key(publisher),), (lost.key_id,))
    outcome = rotate_key(publisher.repository, Role.ROOT, change)
    assert [(each.role, each.key_ids) for each in outcome.missing] == [(Role.ROOT, (lost.key_id,))]


def test_a_new_key_that_somebody_else_has_signs_there(publisher: Publisher) -> None:
    write_key_pair(publisher.directory / "alice.pem", passphrase=None)
    known = read_key(str(publisher.directory / "alice.pub"))
    old = publisher.keys[Role.TARGETS][0].key_id
    outcome = rotate_key(publisher.repository, Role.TARGETS, KeyChange((known,), (old,)))
    assert [each.role for each in outcome.missing] == [Role.TARGETS]
    alice = read_key(str(publisher.directory / "alice.pem"))
    assert sign(publisher.repository, publisher.repository.signers([alice])).committed


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (KeyChange(), "say what changes"),
        (KeyChange(remove=("ab" * 32,)), "no key of the role"),
        (KeyChange(threshold=2), "with 1 keys"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(
    publisher: Publisher, change: KeyChange, match: str
) -> None:
    before = publisher.files()
    with pytest.raises(ConfigError, match=match):
        rotate_key(publisher.repository, Role.FORGET, change)
    assert publisher.files() == before


def test_an_online_key_gets_no_other_role(publisher: Publisher) -> None:
    online = publisher.keys[Role.TIMESTAMP][0]
    with pytest.raises(ConfigError, match="nothing else"):
        rotate_key(publisher.repository, Role.BUNDLES, KeyChange((online,)))


def test_a_class_forgotten_here_is_not_issued_again(publisher: Publisher) -> None:
    """Even before it is ordered, nothing signs it once more."""
    from pfm_edge.registry import change_registry

    change_registry(publisher.registry, lambda known: known.without([CLASS_IDS["rose"]]))
    rotate_key(publisher.repository, Role.ROOT, _swap(publisher, Role.ROOT))
    assert CLASS_IDS["rose"] not in publisher.client().bundle(MODEL_ID).class_ids


def test_of_two_who_make_a_repository_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher.make(tmp_path)
    mine, theirs = (InitRequest(publisher.registry, new_keys(tmp_path / x)) for x in ("a", "b"))
    directory, create = tmp_path / "both", PublisherRepository.create

    def overtaken(*given: Any, **options: Any) -> PublisherRepository:
        made = create(*given, **options)
        monkeypatch.setattr(PublisherRepository, "create", create)
        assert init_repository(directory, theirs)[1].committed
        return made

    monkeypatch.setattr(PublisherRepository, "create", overtaken)
    with pytest.raises(RepositoryError, match="another process"):
        init_repository(directory, mine)
    assert PublisherRepository.open(directory).signers().of(theirs.keys[Role.ROOT][0].key_id)
