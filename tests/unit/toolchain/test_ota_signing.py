"""Keys of every kind, and two people on two machines."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, Signature, Signer

from pfm_edge._key_files import write_key_pair
from pfm_edge.ota import (
    InitRequest,
    KeyChange,
    Outcome,
    PublisherRepository,
    Role,
    RoleKey,
    Signers,
    abandon,
    forget,
    init_repository,
    new_keys,
    publish,
    read_key,
    refresh,
    rotate_key,
    sign,
    sign_copy,
)
from pfm_edge.registry import change_registry
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.errors import ConfigError, KeyFileError, RepositoryError, UpdateError
from tests.support.publisher import CLASS_IDS, Client, Publisher, TestClock, make_registry
from tests.support.tiny_package import MODEL_ID

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def _pair(folder: Path, name: str) -> tuple[RoleKey, RoleKey]:
    """Return a new key twice: with its private half, and as somebody else knows it."""
    folder.mkdir(exist_ok=True)
    write_key_pair(folder / f"{name}.pem", passphrase=None)
    return read_key(str(folder / f"{name}.pem")), read_key(str(folder / f"{name}.pub"))


def _two_people(
    directory: Path, role: Role
) -> tuple[PublisherRepository, Outcome, Sequence[RoleKey]]:
    """Make a repository where two must sign for a role, and neither key is on this machine."""
    pairs = [_pair(directory / "people", f"{role}-{name}") for name in ("alice", "bob")]
    keys: dict[Role, Sequence[RoleKey]] = {**new_keys(directory / "keys")}
    keys[role] = [public for _, public in pairs]
    request = InitRequest(make_registry(directory), keys, {role: 2})
    repository, outcome = init_repository(directory / "repo", request, clock=TestClock())
    return repository, outcome, [private for private, _ in pairs]


def _elsewhere(repository: PublisherRepository, machine: Path, key: RoleKey) -> Path:
    """Carry what waits to another machine and sign it there."""
    shutil.copytree(repository.layout.pending, machine)
    sign_copy(machine, Signers([key]))
    return machine


def _published(repository: PublisherRepository, tmp_path: Path) -> Client:
    return Client(repository.layout.public, tmp_path / "client")


# --- two people ----------------------------------------------------------------------------------


def test_two_people_on_two_machines_sign_the_first_root(tmp_path: Path) -> None:
    repository, outcome, (alice, bob) = _two_people(tmp_path, Role.ROOT)
    assert not outcome.committed
    assert [(each.role, each.count) for each in outcome.missing] == [(Role.ROOT, 2)]
    assert {alice.key_id, bob.key_id} == {*outcome.missing[0].key_ids}
    assert not repository.layout.public.exists()
    with pytest.raises(RepositoryError, match="waits for signatures"):
        forget(repository, ["rose"])
    copies = [_elsewhere(repository, tmp_path / key.key_id, key) for key in (alice, bob)]
    first = sign(repository, copy=copies[0])
    assert [each.count for each in first.missing] == [1]
    assert sign(repository, copy=copies[1]).committed
    assert not repository.layout.pending.exists()
    assert _published(repository, tmp_path).target("forget.json")


def test_two_who_sign_bundles_sign_the_statement_and_then_its_hash(tmp_path: Path) -> None:
    """The metadata names the hash of the bundle, and that has both signatures in it."""
    repository, outcome, (alice, bob) = _two_people(tmp_path, Role.BUNDLES)
    assert not outcome.committed
    for key in (alice, bob):
        outcome = sign(repository, Signers([key], remembered=[]), copy=None)
    assert not outcome.committed  # snapshot and timestamp
    assert sign(repository).committed
    publisher = Publisher(tmp_path, repository, {}, TestClock())
    publish(repository, publisher.package())
    steps = []
    for number, key in enumerate((alice, bob, alice)):
        copy = _elsewhere(repository, tmp_path / f"machine-{number}", key)
        outcome = sign(repository, copy=copy)
        steps.append([(each.what, each.count) for each in outcome.missing])
    assert steps == [[("the statement of bundle 1-1", 1)], [("metadata", 1)], []]
    bundle = _published(repository, tmp_path).bundle(MODEL_ID)
    assert len(bundle.envelope.signers()) == 2


def test_a_copy_adds_signatures_and_nothing_else(tmp_path: Path) -> None:
    repository, _, _ = _two_people(tmp_path, Role.BUNDLES)
    shutil.copytree(repository.layout.pending, tmp_path / "other")
    abandon(repository)
    assert not repository.layout.pending.exists()
    with pytest.raises(RepositoryError, match="no change waits"):
        sign(repository, copy=tmp_path / "other")


def test_a_copy_cannot_hide_a_key_from_its_signer(tmp_path: Path) -> None:
    repository, _, (alice, bob) = _two_people(tmp_path, Role.TARGETS)
    for person in (alice, bob):
        sign(repository, repository.signers([person]))
    stranger = _pair(tmp_path, "stranger")[1]
    rotate_key(repository, Role.FORGET, KeyChange(add=(stranger,)))
    copy = Path(shutil.copytree(repository.layout.pending, tmp_path / "copy"))
    # Whoever carries it says that the key was there before.
    before = json.loads((copy / "metadata" / "targets.json").read_bytes())
    before["signed"]["version"] -= 1
    (copy / "base" / "targets.json").write_text(json.dumps(before))
    notes = sign_copy(copy, Signers([alice])).notes
    assert any("forget: 1 of" in each and stranger.key_id[:16] in each for each in notes)


def test_a_copy_that_lacks_its_metadata_is_refused(tmp_path: Path) -> None:
    repository, _, _ = _two_people(tmp_path, Role.BUNDLES)
    copy = Path(shutil.copytree(repository.layout.pending, tmp_path / "copy"))
    shutil.rmtree(copy / "metadata")
    with pytest.raises(RepositoryError, match="missing"):
        sign_copy(copy, Signers([]))


def test_a_copy_of_another_change_is_refused(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    alice, known = _pair(tmp_path, "alice")
    change = KeyChange(add=(known,), threshold=2)
    rotate_key(publisher.repository, Role.FORGET, change)
    copies = []
    for number, names in enumerate((["rose"], ["tulip"])):
        if number == 0:
            sign(publisher.repository, publisher.repository.signers([alice]))
        else:
            abandon(publisher.repository)
        forget(publisher.repository, names)
        copies.append(_elsewhere(publisher.repository, tmp_path / f"copy-{number}", alice))
    with pytest.raises(RepositoryError, match="the copy"):
        sign(publisher.repository, copy=copies[0])
    assert sign(publisher.repository, copy=copies[1]).committed


def test_a_bad_signature_in_a_copy_counts_for_nothing(tmp_path: Path) -> None:
    repository, _, (alice, bob) = _two_people(tmp_path, Role.ROOT)
    copy = _elsewhere(repository, tmp_path / "copy", alice)
    path = copy / "metadata/root.json"
    path.write_bytes(path.read_bytes().replace(b'"sig":"', b'"sig":"00', 1))
    assert [each.count for each in sign(repository, copy=copy).missing] == [2]
    again = _elsewhere(repository, tmp_path / "again", alice)
    outcome = sign(repository, repository.signers([bob]), copy=again)
    assert outcome.committed


def test_what_waits_is_not_signed_once_a_class_of_it_was_forgotten_here(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    assert not publish(publisher.repository, publisher.package(), signers=Signers()).committed
    rose = CLASS_IDS["rose"]
    change_registry(publisher.registry, lambda known: known.without([rose]))
    before = publisher.files()
    with pytest.raises(UpdateError, match=f"class {rose}.*pfm-edge ota abandon"):
        sign(publisher.repository)
    assert publisher.files() == before


def test_what_waits_does_not_stop_a_refresh(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    _, stranger = _pair(tmp_path, "stranger")
    rotate_key(publisher.repository, Role.ROOT, KeyChange(add=(stranger,), threshold=3))
    publisher.clock.forward(5)
    refreshed = refresh(publisher.repository)
    assert refreshed.fresh
    assert publisher.repository.layout.pending.exists()
    assert publisher.client().target("forget.json")


def test_an_abandoned_change_leaves_no_class_behind(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    _, stranger = _pair(tmp_path, "stranger")
    rotate_key(publisher.repository, Role.BUNDLES, KeyChange(add=(stranger,), threshold=1))
    outcome = publish(publisher.repository, publisher.package(), signers=Signers())
    assert not outcome.committed
    assert publisher.holding(publisher.trace("rose"))
    abandon(publisher.repository)
    assert publisher.holding(publisher.trace("rose")) == []


# --- keys ----------------------------------------------------------------------------------------


def _elliptic(folder: Path, name: str) -> Path:
    """Write a key of another algorithm, both halves."""
    key = generate_private_key(SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.pem").write_bytes(pem)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem"


class _Vault(Signer):
    """A signer of some service: it is reached by a URI, and refuses when that says so."""

    def __init__(self, real: Signer, *, refuses: bool) -> None:
        self._real, self._refuses = real, refuses

    @property
    def public_key(self) -> Key:
        return self._real.public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: object = None
    ) -> Signer:
        path, _, query = priv_key_uri.removeprefix("testvault:").partition("?")
        real = CryptoSigner.from_priv_key_uri(f"file2:{path}", public_key)
        return cls(real, refuses=query == "sealed")

    def sign(self, payload: bytes) -> Signature:
        if self._refuses:
            raise RuntimeError("the vault\nis sealed")
        return self._real.sign(payload)


@pytest.fixture
def _vault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "testvault", _Vault)


def _keys_with(directory: Path, role: Role, *names: str) -> dict[Role, Sequence[RoleKey]]:
    return {**new_keys(directory / "keys"), role: [read_key(each) for each in names]}


@pytest.mark.usefixtures("_vault")
def test_a_signer_uri_signs_for_a_role_with_its_own_algorithm(tmp_path: Path) -> None:
    private = _elliptic(tmp_path, "kms")
    keys = _keys_with(
        tmp_path, Role.TIMESTAMP, f"{tmp_path}/kms.pub=testvault:{private}", f"file2:{private}"
    )
    keys[Role.TIMESTAMP] = keys[Role.TIMESTAMP][:1]
    repository, outcome = init_repository(
        tmp_path / "repo", InitRequest(make_registry(tmp_path), keys)
    )
    assert outcome.committed
    assert refresh(repository).fresh
    assert _published(repository, tmp_path).target("forget.json")


@pytest.mark.usefixtures("_vault")
def test_a_signer_uri_signs_bundles_and_forget_lists(tmp_path: Path) -> None:
    names = []
    for role in ("bundles", "forget"):
        write_key_pair(tmp_path / f"{role}.pem", passphrase=None)
        names.append(f"{tmp_path}/{role}.pub=testvault:{tmp_path}/{role}.pem")
    keys = _keys_with(tmp_path, Role.BUNDLES, names[0])
    keys[Role.FORGET] = [read_key(names[1])]
    request = InitRequest(make_registry(tmp_path), keys)
    repository, _ = init_repository(tmp_path / "repo", request, clock=TestClock())
    publisher = Publisher(tmp_path, repository, {}, TestClock())
    publish(repository, publisher.package())
    forget(repository, ["rose"])
    bundle = _published(repository, tmp_path).bundle(MODEL_ID)
    assert CLASS_IDS["rose"] not in bundle.class_ids
    assert bundle.envelope.signers()


@pytest.mark.usefixtures("_vault")
def test_a_service_that_refuses_ends_in_one_line(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    key = publisher.keys[Role.TIMESTAMP][0]
    sealed = RoleKey(key.public, f"testvault:{key.source}?sealed")
    before = publisher.files()
    with pytest.raises(KeyFileError, match="the vault is sealed"):
        refresh(publisher.repository, signers=Signers([sealed]))
    assert publisher.files() == before


def test_a_key_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    key = publisher.keys[Role.FORGET][0]
    Path(key.source or "").unlink()
    outcome = forget(publisher.repository, ["rose"])
    assert [each.role for each in outcome.missing] == [Role.FORGET]
    assert "no such file" in outcome.unavailable[key.key_id]


def test_a_remembered_key_of_another_kind_now_is_refused(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    key = publisher.keys[Role.TIMESTAMP][0]
    other = publisher.keys[Role.SNAPSHOT][0]
    Path(key.source or "").write_bytes(Path(other.source or "").read_bytes())
    refreshed = refresh(publisher.repository)
    assert not refreshed.fresh
    assert "another key now" in refreshed.outcome.unavailable[key.key_id]


@pytest.mark.parametrize(
    ("role", "names", "thresholds", "match"),
    [
        pytest.param(Role.ROOT, ["a.pem"], {}, "threshold of 2", id="fewer than must sign"),
        pytest.param(Role.ROOT, ["a.pem", "a.pub"], {}, "there twice", id="one key, two names"),
        pytest.param(Role.BUNDLES, ["ec.pub"], {}, "Ed25519", id="bundles by another algorithm"),
        pytest.param(Role.FORGET, ["ec.pub"], {}, "Ed25519", id="forget by another algorithm"),
        pytest.param(Role.TARGETS, [], {}, "with 0 keys", id="no key"),
        pytest.param(Role.TARGETS, ["keys/timestamp.pem"], {}, "nothing else", id="online key"),
    ],
)
def test_keys_that_make_no_sense_are_refused(
    tmp_path: Path, role: Role, names: list[str], thresholds: dict[Role, int], match: str
) -> None:
    write_key_pair(tmp_path / "a.pem", passphrase=None)
    _elliptic(tmp_path, "ec")
    keys: dict[Role, Sequence[RoleKey]] = {**new_keys(tmp_path / "keys")}
    keys[role] = [read_key(str(tmp_path / each)) for each in names]
    request = InitRequest(make_registry(tmp_path), keys, thresholds)
    with pytest.raises(ConfigError, match=match):
        init_repository(tmp_path / "repo", request)
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("missing.pem", "no such file"),
        ("hsm:2", "name its public key"),
        ("ec.pem", "EC key"),
        ("notes.txt", "no public key"),
        ("file2:missing.pem", "no such file"),
    ],
)
def test_a_name_that_is_no_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _elliptic(tmp_path, "ec")
    (tmp_path / "ec.pub").unlink()
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(KeyFileError, match=match):
        read_key(name)


def test_an_envelope_wants_no_more_signatures_than_are_needed(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path)
    second, _ = _pair(tmp_path, "second")
    rotate_key(publisher.repository, Role.BUNDLES, KeyChange(add=(second,)))
    publish(publisher.repository, publisher.package())
    bundle: Bundle = publisher.client().bundle(MODEL_ID)
    assert len(bundle.envelope.signatures) == 1
