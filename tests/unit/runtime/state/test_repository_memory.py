"""What a device remembers of updates: absent classes, its repository, and keys that came so."""

from contextlib import suppress
from pathlib import Path

import pytest

from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.cli import main
from pfm_edge_runtime.errors import StateError, StorageError, VerificationError
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.opening import install_bundle, open_model
from pfm_edge_runtime.state import (
    AbsentRecord,
    DeviceState,
    Order,
    RepositoryTrust,
    RoleFloor,
    examine_state,
    repair_ledger,
)
from tests.support.failing_disk import faults_of
from tests.support.remembered import (
    MODEL,
    MOMENT,
    class_id,
    erased,
    install,
    issuer,
    new_state,
    tombstone,
)
from tests.support.tiny_package import build_bundle, write_tiny_package

ROOT = b'{"signed":{"version":1}}'


def absent(number: int, device: str, bundle: str | None = "cd" * 32) -> AbsentRecord:
    return AbsentRecord(
        class_id=class_id(number),
        model_id=MODEL if number % 2 else None if bundle is None else MODEL,
        bundle=bundle,
        order=Order(f"order-{number}", "ab" * 32),
        device=device,
        software="pfm-edge-runtime 0.1.0",
        moment=MOMENT,
    )


# --- absent


def test_an_absent_class_is_a_forgotten_one_with_a_receipt(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install(), tombstone(1))
    with state.exclusive():
        state.append(absent(2, state.device), erased(1, state.device, of=3))
        state.append(absent(3, state.device, None), absent(4, state.device, None))
    for memory in (state.memory, DeviceState.open(state.directory).memory):
        assert memory.tombstones.keys() == {class_id(number) for number in (1, 2, 3, 4)}
        assert [(each.kind, each.number) for each in memory.receipts()] == [
            ("absent", 4),
            ("erased", 5),
        ]
        assert [each.number for each in memory.receipts(after=4)] == [5]
        assert memory.unseen == {class_id(3), class_id(4)}
        assert memory.order_of(class_id(2)) == Order("order-2", "ab" * 32)
        assert memory.order_of(class_id(9)) is None
        assert not memory.pending
    with state.exclusive():
        state.append(absent(3, state.device))
        state.append(absent(3, state.device, None))
    found = state.memory.absent(class_id(3))
    assert found is not None
    assert found.bundle == "cd" * 32
    assert state.memory.unseen == {class_id(4)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_id": "AB" * 16},
        {"model_id": "5e"},
        {"model_id": None},  # of a bundle that was looked at
        {"bundle": "cd"},
        {"device": ""},
        {"software": "somebody's \u00e9"},
    ],
)
def test_what_is_no_absent_record(wrong: dict[str, object]) -> None:
    fields = {
        "class_id": class_id(1),
        "model_id": MODEL,
        "bundle": "cd" * 32,
        "device": "ef" * 32,
        "software": "x 1",
        "moment": MOMENT,
    }
    with pytest.raises(StateError):
        AbsentRecord(**{**fields, **wrong})  # type: ignore[arg-type]


def test_a_damaged_ledger_keeps_absent_classes_forgotten(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install())
    with state.exclusive():
        state.append(absent(2, state.device), absent(3, state.device))
    path = state.directory / "ledger.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"order-2"', b'"order-X"')
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(StateError, match="doctor --repair"):
        DeviceState.open(state.directory)
    assert repair_ledger(state.directory) is not None
    assert DeviceState.open(state.directory).memory.tombstones.keys() == {class_id(2), class_id(3)}


def test_many_records_go_together(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install())
    reader = DeviceState.open(state.directory)
    many = [absent(number, state.device) for number in range(2, 302)]
    with state.exclusive():
        made = state.append(*many)
    assert [each.number for each in made] == list(range(3, 303))
    assert reader.moved()
    assert reader.refresh().head == state.memory.head
    with reader.exclusive():  # and the next one goes on from there
        reader.append(absent(500, state.device))
    assert state.refresh().number == 303
    assert len(DeviceState.open(state.directory).memory.tombstones) == 301


def test_a_torn_end_goes_when_many_come(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install())
    with (state.directory / "ledger.jsonl").open("ab") as file:
        file.write(b'{"kind":"tomb')
    again = DeviceState.open(state.directory)
    with again.exclusive():
        again.append(*(absent(number, state.device) for number in range(2, 22)))
    assert len(DeviceState.open(state.directory).memory.tombstones) == 20


# --- the repository


KEYS = TrustedKeys(1, frozenset({issuer()}))
KNOWN = RepositoryTrust(
    ROOT,
    forget=KEYS,
    bundles=TrustedKeys(2, frozenset({issuer(), issuer()})),
    floors={"timestamp": RoleFloor("ab" * 32, 7), "bundles": RoleFloor("cd" * 32, 1)},
    time="2026-11-24T10:00:00Z",
    cohort="beta",
)


@pytest.mark.parametrize("known", [KNOWN, RepositoryTrust(ROOT)])
def test_a_repository_is_remembered(tmp_path: Path, known: RepositoryTrust) -> None:
    state = new_state(tmp_path / "state")
    assert state.repository() is None
    state.know_repository(known)
    assert DeviceState.open(state.directory).repository() == known
    statuses = {
        each.name: each.status for each in examine_state(state.directory, require_state=False)
    }
    assert statuses["repository"] == ("ok" if known.forget else "note")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format":"pfm-repository/1"', b'"format":"pfm-repository/2"'),
        (b'"version":7', b'"version":0'),
        (b'"threshold":1', b'"threshold":3'),
        (b'"time":"2026', b'"time":"x026'),
        (b'"cohort":"beta",', b""),
        (b'"role":"bundles"', b'"role":"zzz"'),
        (b"{", b""),
    ],
)
def test_a_damaged_memory_of_it_is_said_with_the_way_out(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    state = new_state(tmp_path / "state")
    state.know_repository(KNOWN)
    path = state.directory / "trust" / "repository.json"
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(StateError, match=r"repository\.json: .*init --replace-trust --root"):
        state.repository()
    checks = examine_state(state.directory, require_state=False)
    assert "problem" in {each.status for each in checks if each.name == "repository"}


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    numbers = iter(range(1000))

    def scene() -> DeviceState:
        made = new_state(tmp_path / str(next(numbers)))
        made.know_repository(RepositoryTrust(ROOT))
        return made

    first = scene()
    for fault in faults_of(lambda: first.know_repository(KNOWN)):
        state = scene()
        with fault.injected(), suppress(StorageError):
            state.know_repository(KNOWN)
        assert state.repository() in [KNOWN, RepositoryTrust(ROOT)], fault
        state.know_repository(KNOWN)
        assert [each.name for each in (state.directory / "trust").iterdir()] == ["repository.json"]


# --- keys that came with a repository


def test_what_was_installed_stays_in_use_under_new_keys_of_a_repository(
    tmp_path: Path, device_state: Path
) -> None:
    old, new = SigningKey.generate(), SigningKey.generate()
    tiny = write_tiny_package(tmp_path / "model", key=old)
    state = DeviceState.create(
        device_state, trust=TrustedKeys(1, frozenset({old.public})), bind=False
    )
    open_model(tiny.directory)
    keys = TrustedKeys(1, frozenset({new.public}))
    assert DeviceState.replace_trust(state.directory, keys, keep_installed=True).keeps_installed
    assert len(open_model(tiny.directory).bundle) == 4
    state.refresh()
    assert state.trust == keys  # a process that runs learns of them
    # But not another bundle of the old key, whatever its place.
    later = build_bundle(tiny.manifest.to_bytes(), sequence=2, key=old).to_bytes()
    whole = tiny.bundle_path.read_bytes()
    tiny.bundle_path.write_bytes(later)
    with pytest.raises(VerificationError, match="step 3"):
        open_model(tiny.directory)
    tiny.bundle_path.write_bytes(whole)
    with pytest.raises(VerificationError, match="step 3"):
        install_bundle(tiny.directory, later)
    install_bundle(
        tiny.directory, build_bundle(tiny.manifest.to_bytes(), sequence=3, key=new).to_bytes()
    )
    # And from then on not the one before either: it is below the floor.
    tiny.bundle_path.write_bytes(whole)
    with pytest.raises(VerificationError):
        open_model(tiny.directory)


def test_keys_that_a_person_set_hold_for_what_is_installed(
    tmp_path: Path, device_state: Path
) -> None:
    old, new = SigningKey.generate(), SigningKey.generate()
    tiny = write_tiny_package(tmp_path / "model", key=old)
    DeviceState.create(device_state, trust=TrustedKeys(1, frozenset({old.public})), bind=False)
    open_model(tiny.directory)
    keys = TrustedKeys(1, frozenset({new.public}))
    DeviceState.replace_trust(device_state, keys, keep_installed=True)
    DeviceState.replace_trust(device_state, keys)
    with pytest.raises(VerificationError, match="step 3"):
        open_model(tiny.directory)
    assert main(["doctor", str(tiny)]) == 1
