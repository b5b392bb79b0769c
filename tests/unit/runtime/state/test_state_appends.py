"""Appending to the ledger: all or nothing, one writer at a time, and readers that follow."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pfm_edge_runtime.errors import StateMissingError, StorageError
from pfm_edge_runtime.state import DeviceState
from pfm_edge_runtime.state import _clock as clock_module
from tests.support.failing_disk import Fault, faults_of
from tests.support.remembered import (
    class_id,
    erased,
    fixed_clock,
    install,
    new_state,
    tombstone,
)


def _contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


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
