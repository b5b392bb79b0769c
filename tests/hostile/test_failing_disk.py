"""A disk that fails at any one call: what was there before is intact, and no file is left over."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from pfm_edge_runtime import _disk, store
from pfm_edge_runtime.errors import StorageError
from pfm_edge_runtime.store import staged_directory, write_atomic
from tests.support.failing_disk import Fault, faults_of


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"directory"
        for path in sorted(directory.rglob("*"))
    }


def _strike(directory: Path, operation: Callable[[], object], fault: Fault) -> None:
    """Let the fault strike; require our exception, in one line, and an untouched directory."""
    before = _contents(directory)
    with fault.injected(), pytest.raises(StorageError) as caught:
        operation()
    assert "\n" not in str(caught.value), fault
    assert _contents(directory) == before, fault


def _in_each_fault(tmp_path: Path, prepare: Callable[[Path], Callable[[], object]]) -> list[str]:
    faults = faults_of(prepare(tmp_path / "counted"))
    for fault in faults:
        directory = tmp_path / str(fault)
        _strike(directory, prepare(directory), fault)
    return [str(fault) for fault in faults]


def test_a_new_file(tmp_path: Path) -> None:
    def prepare(directory: Path) -> Callable[[], object]:
        directory.mkdir()
        return lambda: write_atomic(directory / "data", b"new" * 1000)

    assert {"open-1", "write-1", "fsync-1", "replace-1", "fsync-2"} <= set(
        _in_each_fault(tmp_path, prepare)
    )


def test_an_old_file(tmp_path: Path) -> None:
    def prepare(directory: Path) -> Callable[[], object]:
        directory.mkdir()
        (directory / "data").write_bytes(b"old")
        return lambda: write_atomic(directory / "data", b"new" * 1000)

    assert {"open-1", "write-1", "fsync-1", "link-1", "replace-1", "fsync-2", "unlink-1"} <= set(
        _in_each_fault(tmp_path, prepare)
    )


def _stage(target: Path) -> None:
    with staged_directory(target, overwrite=True) as staging:
        (staging / "manifest.json").write_bytes(b"new")
        (staging / "inner").mkdir()
        (staging / "inner" / "graph").write_bytes(b"new")


def test_a_new_directory(tmp_path: Path) -> None:
    def prepare(directory: Path) -> Callable[[], object]:
        directory.mkdir()
        return lambda: _stage(directory / "model")

    struck = _in_each_fault(tmp_path, prepare)
    assert {"mkdir-1", "fsync-1", "fsync-5", "rename-1"} <= set(struck)


def _prepare_old_directory(directory: Path) -> Callable[[], object]:
    (directory / "model").mkdir(parents=True)
    (directory / "model" / "manifest.json").write_bytes(b"old")
    return lambda: _stage(directory / "model")


@pytest.mark.parametrize("at_once", [True, False], ids=["exchange at once", "three renames"])
def test_an_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(store, "_exchange_at_once", lambda one, other: False)
    # rmtree opens directories too: what follows the last fsync is the removal of the old one.
    faults = faults_of(_prepare_old_directory(tmp_path / "counted"))
    fsyncs = [fault for fault in faults if fault.call == "fsync"]
    renames = [fault for fault in faults if fault.call == "rename"]
    opens = [fault for fault in faults if fault.call == "open"][: len(fsyncs)]
    mkdirs = [fault for fault in faults if fault.call == "mkdir"]
    assert len(fsyncs) == 5
    assert len(renames) == (0 if at_once else 3)
    for fault in [*fsyncs, *renames, *opens, *mkdirs]:
        directory = tmp_path / str(fault)
        _strike(directory, _prepare_old_directory(directory), fault)


def test_an_exchange_that_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(one: Path, other: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store, "_exchange_at_once", refuse)
    operation = _prepare_old_directory(tmp_path / "work")
    before = _contents(tmp_path)
    with pytest.raises(StorageError, match="Input/output error"):
        operation()
    assert _contents(tmp_path) == before


def test_an_old_directory_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    operation = _prepare_old_directory(tmp_path / "work")
    with Fault("unlink", 1).injected(), pytest.raises(StorageError, match="the old one stays"):
        operation()
    assert (tmp_path / "work" / "model" / "manifest.json").read_bytes() == b"new"


def test_an_unconfirmed_file_without_a_second_name_is_not_called_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_disk, "_second_name", lambda path, backup: False)
    (tmp_path / "data").write_bytes(b"old")
    with Fault("fsync", 2).injected(), pytest.raises(StorageError, match="did not confirm"):
        write_atomic(tmp_path / "data", b"new")
    assert (tmp_path / "data").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_rename_that_can_neither_be_confirmed_nor_undone_is_not_called_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_bytes(b"old")
    real = _disk.put_back
    monkeypatch.setattr(_disk, "put_back", lambda old, path: real(old.with_name("gone"), path))
    with Fault("fsync", 2).injected(), pytest.raises(StorageError) as caught:
        write_atomic(tmp_path / "data", b"new")
    assert "refused to undo" in str(caught.value)
    assert "intact" not in str(caught.value)
    # Nothing is lost: the new file is in place, the old one still has its second name.
    contents = sorted(path.read_bytes() for path in tmp_path.iterdir())
    assert contents == [b"new", b"old"]
