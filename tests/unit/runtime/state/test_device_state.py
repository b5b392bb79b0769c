"""The state's directory: made once, of one device, and whole whatever the disk does."""

import errno
import os
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import PfmEdgeError, StateError, StateMissingError, StorageError
from pfm_edge_runtime.keys import SigningKey, public_from_pem
from pfm_edge_runtime.state import DeviceState, default_state_directory
from pfm_edge_runtime.state import _clock as clock_module
from pfm_edge_runtime.state import _layout as layout_module
from pfm_edge_runtime.state import _machine as machine_module
from tests.support.failing_disk import Fault, faults_of
from tests.support.remembered import (
    class_id,
    erased,
    fixed_clock,
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


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(StateError, match=r"holiday\.jpg.*empty directory"):
        DeviceState.create(tmp_path / "photos", trust=None, bind=False)
    assert _names(tmp_path) == ["photos", "photos/holiday.jpg"]
    with pytest.raises(StorageError, match="Not a directory"):
        DeviceState.create(tmp_path / "photos" / "holiday.jpg", trust=None, bind=False)


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


# --- appending


def test_one_look_tells_whether_another_process_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = new_state(tmp_path / "state", install())
    other = DeviceState.open(state.directory)
    looks: list[object] = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kwargs: looks.append(path) or real(path))
    assert not other.moved()
    assert len(looks) == 1
    with state.exclusive():
        state.append(tombstone(1))
    assert not state.moved()
    assert other.moved()
    assert other.refresh().tombstones == {class_id(1): 3}
    assert not other.moved()


def test_a_ledger_that_was_replaced_or_shrank_is_read_anew(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install())
    path = state.directory / "ledger.jsonl"
    older = path.read_bytes()
    with state.exclusive():
        state.append(tombstone(1))
    newer = path.read_bytes()
    path.write_bytes(older)
    assert state.moved()
    assert state.refresh().number == 2
    path.unlink()
    assert state.moved()
    with pytest.raises(StateMissingError):
        state.refresh()
    assert state.memory.number == 2
    path.write_bytes(newer)
    assert state.refresh().tombstones == {class_id(1): 3}


def test_appending_needs_the_lock(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state")
    with pytest.raises(RuntimeError, match="exclusive"):
        state.append(install())
    with state.exclusive(), state.exclusive():  # once more in the same thread changes nothing
        (record,) = state.append(install())
    assert (record.number, record.digest) == (2, state.memory.head)
    with pytest.raises(RuntimeError, match="exclusive"):
        state.append(install())


def test_an_append_that_fails_at_any_call_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    def append(state: DeviceState) -> None:
        with state.exclusive():
            state.append(tombstone(1), tombstone(2))

    counted = new_state(tmp_path / "counted", install())
    faults = faults_of(lambda: append(counted))
    assert {"write-1", "write-2", "fsync-1", "fsync-2"} <= set(map(str, faults))
    for fault in faults:
        state = new_state(tmp_path / str(fault), install())
        before = _contents(state.directory)
        with fault.injected(errno.EIO), pytest.raises(StorageError, match="nothing changed"):
            append(state)
        assert _contents(state.directory) == before, fault
        assert state.memory.tombstones == {}, fault
        append(state)
        assert state.memory.tombstones == {class_id(1): 3, class_id(2): 4}, fault
        assert DeviceState.open(state.directory, clock=fixed_clock).memory == state.memory


def test_a_write_that_takes_only_a_part_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = new_state(tmp_path / "state", install())
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:100])))
    with state.exclusive():
        state.append(tombstone(1))
    assert DeviceState.open(state.directory).memory.tombstones == {class_id(1): 3}


def test_a_full_disk_after_half_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = new_state(tmp_path / "state", install())
    before = _contents(state.directory)
    real = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) < 400:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, bytes(data[:200]))

    monkeypatch.setattr(os, "write", half)
    with (
        state.exclusive(),
        pytest.raises(StorageError, match=r"ledger\.jsonl.*No space left.*nothing changed"),
    ):
        state.append(tombstone(1))
    assert _contents(state.directory) == before


def test_a_failure_that_cannot_be_undone_is_not_called_one(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install(), tombstone(9))
    with state.exclusive():
        with (
            Fault("fsync", 1).injected(errno.EIO),
            Fault("ftruncate", 1).injected(errno.EIO),
            pytest.raises(StorageError, match="not known") as caught,
        ):
            state.append(tombstone(1))
        assert "nothing changed" not in str(caught.value)
    # It is taken as being there, by whoever reads the file and by this object even if it is not.
    assert class_id(1) in state.memory.tombstones
    assert class_id(1) in DeviceState.open(state.directory).memory.tombstones
    assert class_id(1) in state.refresh().tombstones


def test_a_record_that_may_be_lost_is_written_again(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install())
    path = state.directory / "ledger.jsonl"
    before = path.read_bytes()
    with (
        state.exclusive(),
        Fault("fsync", 1).injected(errno.EIO),
        Fault("ftruncate", 1).injected(errno.EIO),
        pytest.raises(StorageError),
    ):
        state.append(tombstone(1))
    path.write_bytes(before)  # the disk lost it after all
    assert state.refresh().tombstones == {class_id(1): 3}
    with (
        Fault("write", 1).injected(),
        pytest.raises(StorageError, match="nothing changed"),
        state.exclusive(),
    ):
        raise AssertionError("not entered before that is settled")
    assert state.memory.tombstones == {class_id(1): 3}
    with state.exclusive():
        state.append(tombstone(2))
    assert DeviceState.open(state.directory).memory.tombstones == {class_id(1): 3, class_id(2): 4}


def test_an_erasure_that_may_be_lost_is_not_believed(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install(), tombstone(1))
    with (
        state.exclusive(),
        Fault("fsync", 1).injected(errno.EIO),
        Fault("ftruncate", 1).injected(errno.EIO),
        pytest.raises(StorageError),
    ):
        state.append(erased(1, state.device, of=3))
    assert state.memory.erased(class_id(1)) is None


def test_an_interrupted_append_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = new_state(tmp_path / "state", install(), tombstone(9))
    before = _contents(state.directory)

    def interrupt(descriptor: int) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with state.exclusive():
        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            state.append(tombstone(1))
    assert _contents(state.directory) == before
    assert class_id(1) not in state.refresh().tombstones


_APPENDER = """
import sys
from tests.support.remembered import tombstone
from pfm_edge_runtime.state import DeviceState
state = DeviceState.open(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    with state.exclusive():
        state.append(tombstone(number))
"""


def test_two_processes_append_one_after_the_other(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install())
    spans = [("0", "40"), ("40", "80")]
    commands = [[sys.executable, "-c", _APPENDER, str(state.directory), *span] for span in spans]
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[4]) for command in commands]
    seen = 0
    while any(process.poll() is None for process in running):
        found = len(state.refresh().tombstones)  # a reader without the lock sees whole records
        assert found >= seen
        seen = found
    assert [process.returncode for process in running] == [0, 0]
    assert set(state.refresh().tombstones) == {class_id(each) for each in range(80)}
    assert sorted(state.memory.tombstones.values()) == list(range(3, 83))


def test_a_reader_is_not_held_up_by_a_writer(tmp_path: Path) -> None:
    state = new_state(tmp_path / "state", install())
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with state.exclusive():
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(10)
    assert not state.moved()
    assert state.refresh().number == 2
    assert DeviceState.open(state.directory).memory.number == 2
    leave.set()
    holder.join(10)


# --- time


def test_the_clock_is_not_believed_when_it_is_behind_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "_status", lambda: "synchronized")
    now = clock_module.read_clock()
    assert now.clock == "synchronized"
    assert clock_module.read_clock("2999-01-01T00:00:00Z").clock == "behind"
    state = DeviceState.open(new_state(tmp_path / "state").directory)
    assert state.moment().clock == ("behind" if now.time < state.memory.time else "synchronized")
    assert state.moment("2999-01-01T00:00:00Z").clock == "behind"


@pytest.mark.parametrize(
    ("synchronized", "flags", "status"),
    [
        (True, 0x40, "synchronized"),
        (False, 0x40, "unsynchronized"),
        (False, 0x2001, "synchronized"),
        (False, None, "unknown"),
    ],
)
def test_what_the_system_says_about_its_clock(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    synchronized: bool,
    flags: int | None,
    status: str,
) -> None:
    path = tmp_path / "synchronized"
    if synchronized:
        path.touch()
    monkeypatch.setattr(clock_module, "_TIMESYNCD", path)
    monkeypatch.setattr(clock_module, "_kernel_flags", lambda: flags)
    assert clock_module.read_clock().clock == status


def test_the_kernel_answers_where_it_is_linux() -> None:
    flags = clock_module._kernel_flags()
    assert flags is not None or sys.platform != "linux"
