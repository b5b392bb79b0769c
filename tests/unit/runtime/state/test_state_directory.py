"""The state's directory: made once, of one device, and whole whatever the disk does."""

import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import PfmEdgeError, StateError, StateMissingError, StorageError
from pfm_edge_runtime.keys import SigningKey, public_from_pem
from pfm_edge_runtime.state import DeviceState, default_state_directory
from pfm_edge_runtime.state import _layout as layout_module
from pfm_edge_runtime.state import _machine as machine_module
from tests.support.failing_disk import faults_of
from tests.support.remembered import (
    class_id,
    install,
    issuer,
    new_state,
    tombstone,
)


def _names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def _contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's id, in a file that a test may change."""
    path = tmp_path / "machine-id"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(machine_module, "_FILES", (path,))
    return path


# --- where


def test_where_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_module, "_SYSTEM", tmp_path / "system")
    assert default_state_directory() == Path(os.environ["PFM_EDGE_STATE"])
    monkeypatch.setenv("PFM_EDGE_STATE", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_directory() == tmp_path / ".local" / "state" / "pfm-edge"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert default_state_directory() == tmp_path / "xdg" / "pfm-edge"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_directory() == tmp_path / "system"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "system").mkdir()
    assert default_state_directory() == tmp_path / "system"


# --- making it


def test_a_new_state(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        state = DeviceState.create(tmp_path / "a" / "state", trust=None, bind=False)
    finally:
        os.umask(old)
    assert _names(state.directory) == ["device.key", "device.pub", "ledger.jsonl", "lock"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.directory.iterdir()}
    assert modes == {"device.key": 0o600, "device.pub": 0o644, "ledger.jsonl": 0o600, "lock": 0o600}
    assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700
    assert state.trust is None
    assert public_from_pem((state.directory / "device.pub").read_bytes()) == state.public_key
    assert state.signing_key().public == state.public_key
    assert DeviceState.open(state.directory).device == state.device


def test_creating_is_no_way_to_replace(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install(), tombstone(1))
    before = _contents(state.directory)
    again = DeviceState.create(state.directory, trust=None, bind=True)
    assert again.device == state.device
    with pytest.raises(StateError, match="--replace-trust"):
        DeviceState.create(state.directory, trust=TrustedKeys(1, frozenset({issuer()})), bind=True)
    assert _contents(state.directory) == before


def test_a_first_use_does_not_undo_what_an_init_began(tmp_path: Path) -> None:
    state = DeviceState.create(
        tmp_path / "state", trust=TrustedKeys(1, frozenset({issuer()})), bind=False
    )
    (state.directory / "ledger.jsonl").unlink()
    again = DeviceState.create(state.directory, trust=None, bind=False)
    assert again.trust == state.trust
    (state.directory / "trust" / "keys.json").unlink()
    with pytest.raises(StateError, match="nobody is trusted"):
        DeviceState.open(state.directory)


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(StateError, match=r"holiday\.jpg.*empty directory"):
        DeviceState.create(tmp_path / "photos", trust=None, bind=False)
    assert _names(tmp_path) == ["photos", "photos/holiday.jpg"]
    with pytest.raises(StorageError, match="Not a directory"):
        DeviceState.create(tmp_path / "photos" / "holiday.jpg", trust=None, bind=False)


def test_a_hidden_directory_of_somebody_else_blocks_nothing(tmp_path: Path) -> None:
    (tmp_path / "state" / ".x.tmp").mkdir(parents=True)
    (tmp_path / "state" / ".lock.0123456789abcdef.tmp").touch()  # of a creation that was killed
    DeviceState.create(tmp_path / "state", trust=None, bind=False)
    hidden = [name for name in _names(tmp_path / "state") if name.startswith(".")]
    assert hidden == [".x.tmp"]


@pytest.mark.parametrize("name", ["lock", "ledger.jsonl"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    state = new_state(tmp_path / "state", install())
    outside = tmp_path / "outside"
    (state.directory / name).rename(outside)
    (state.directory / name).symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(StorageError, match=rf"{name} cannot be written"), state.exclusive():
        state.append(tombstone(1))
    assert outside.read_bytes() == before


def test_a_creation_that_fails_at_any_call_is_finished_by_the_next(tmp_path: Path) -> None:
    trust = TrustedKeys(1, frozenset({issuer()}))

    def create(name: str) -> DeviceState:
        return DeviceState.create(tmp_path / name / "state", trust=trust, bind=False)

    faults = faults_of(lambda: create("counted"))
    assert {"mkdir-1", "write-1", "fsync-1", "replace-1", "open-1"} <= set(map(str, faults))
    for fault in faults:
        with fault.injected(), suppress(PfmEdgeError):  # a key that cannot be read is drawn anew
            create(str(fault))
        directory = tmp_path / str(fault) / "state"
        try:
            state = DeviceState.open(directory)  # it may be complete, and only read in vain
        except StateMissingError:
            state = create(str(fault))
        assert state.trust == trust, fault
        assert state.signing_key().public == state.public_key, fault
        assert not [name for name in _names(directory) if name.endswith(".tmp")], fault
        assert public_from_pem((directory / "device.pub").read_bytes()) == state.public_key


def test_two_processes_that_create_at_once_share_one_state(tmp_path: Path) -> None:
    code = (
        "import sys; from pfm_edge_runtime.state import DeviceState;"
        "print(DeviceState.create(sys.argv[1], trust=None, bind=False).device)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert [process.returncode for process in running] == [0, 0, 0]


# --- whose it is


def test_a_state_that_was_copied_to_another_machine(tmp_path: Path, machine: Path) -> None:
    trust = TrustedKeys(1, frozenset({issuer()}))
    state = DeviceState.create(tmp_path / "state", trust=trust, bind=True)
    with state.exclusive():
        state.append(install(), tombstone(1))
    assert DeviceState.open(state.directory).trust == trust
    machine.write_text("f" * 32)
    with pytest.raises(StateError, match=r"another device.*pfm-device init --adopt"):
        DeviceState.open(state.directory)
    adopted = DeviceState.adopt(state.directory)
    assert adopted.device != state.device
    assert adopted.memory.tombstones == {class_id(1): 3}
    assert adopted.trust == trust
    assert DeviceState.open(state.directory).device == adopted.device
    machine.unlink()
    with pytest.raises(StateError, match="another device"):
        DeviceState.open(state.directory)


def test_a_state_of_first_use_may_move(tmp_path: Path, machine: Path) -> None:
    state = new_state(tmp_path / "state")
    machine.write_text("f" * 32)
    assert DeviceState.open(state.directory).device == state.device


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (SigningKey.generate().to_pem(), "belongs to key .*--adopt"),
        (SigningKey.generate().to_pem(b"secret"), "encrypted.*--adopt"),
        (b"no key", "no private key.*--adopt"),
        (None, "is missing.*--adopt"),
    ],
    ids=["another key", "an encrypted key", "no key", "nothing"],
)
def test_a_swapped_key(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    state = new_state(tmp_path / "state", install(), tombstone(1))
    key = state.directory / "device.key"
    key.unlink()
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(StateError, match=complaint) as caught:
        DeviceState.open(state.directory)
    assert "\n" not in str(caught.value)
    assert DeviceState.adopt(state.directory).memory.tombstones == {class_id(1): 3}
    assert DeviceState.open(state.directory).signing_key().key_id != state.device


def test_an_adoption_is_seen_by_an_open_state(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state")
    adopted = DeviceState.adopt(state.directory)
    with pytest.raises(StateError, match="another device"):  # not before it has read on
        state.signing_key()
    state.refresh()
    assert state.device == adopted.device
    assert state.signing_key().public == adopted.public_key == state.public_key


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "is missing, so nobody is trusted"),
        (b"", "is no JSON"),
        (b"{}", "format is missing"),
        (b'{"format":"pfm-trust/2"}', "format is not pfm-trust/1"),
        (b'{"bundles":{"keys":[],"threshold":0},"format":"pfm-trust/1"}', "names no key"),
        (b'{"bundles":{"keys":["00"],"threshold":1},"format":"pfm-trust/1"}', "malformed"),
        (b" " * 70_000, "longer than"),
    ],
)
def test_a_managed_device_never_falls_back_to_trusting_on_first_use(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    trust = TrustedKeys(1, frozenset({issuer()}))
    state = DeviceState.create(tmp_path / "state", trust=trust, bind=False)
    path = state.directory / "trust" / "keys.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StateError, match=rf"keys\.json.*{complaint}.*--replace-trust"):
        DeviceState.open(state.directory)


def test_other_processes_learn_of_other_trusted_keys(tmp_path: Path, machine: Path) -> None:
    state = new_state(tmp_path / "state", install())
    other = DeviceState.open(state.directory)
    trust = TrustedKeys(2, frozenset({issuer(), issuer(), issuer()}))
    assert DeviceState.replace_trust(state.directory, trust).trust == trust
    assert other.moved()
    other.refresh()
    assert other.trust == trust
    machine.write_text("f" * 32)  # from now on it is bound to the machine, too
    with pytest.raises(StateError, match="another device"):
        DeviceState.open(state.directory)
