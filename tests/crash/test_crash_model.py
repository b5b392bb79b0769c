"""The model itself: protocols that are known to be safe, and ones that are known not to be.

A model that lets too much survive would prove nothing about the forget; so each way in which
programs lose data (pillai2014, OSDI, lists them) is written down here, and must be found.
"""

# ruff: noqa: PTH102, PTH105, PTH108 (system calls by name: they are what is recorded)

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pfm_edge_runtime.store import write_atomic
from tests.support.crash_disk import crash_points
from tests.support.disk_events import Recording, take_snapshot
from tests.support.recorded_disk import recorded

OLD, NEW = b"old" * 2000, b"new, and longer" * 1000


def _record(root: Path, operation: Callable[[Path], None], old: bytes | None = OLD) -> Recording:
    root.mkdir(exist_ok=True)
    if old is not None:
        (root / "data").write_bytes(old)
    with recorded(root) as recording:
        operation(root)
    return recording


def _found(recording: Recording, path: str = "data", *, at_the_end: bool = False) -> set[str]:
    """Name what power loss may leave under a path."""
    names = {None: "missing", b"": "empty", OLD: "old", NEW: "new"}
    last = len(recording.steps)
    return {
        names.get(point.image.tree.contents().get(path), "torn")
        for point in crash_points(recording)
        if point.steps == last or not at_the_end
    }


def _write(path: Path, data: bytes, *, sync: bool, flags: int = os.O_TRUNC) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    os.write(descriptor, data)
    if sync:
        os.fsync(descriptor)
    os.close(descriptor)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


# --- safe ---------------------------------------------------------------------------------------


def test_an_atomic_write_leaves_the_old_or_the_new_and_in_the_end_the_new(tmp_path: Path) -> None:
    recording = _record(tmp_path, lambda root: write_atomic(root / "data", NEW))
    assert _found(recording) == {"old", "new"}
    assert _found(recording, at_the_end=True) == {"new"}


def test_an_atomic_write_of_a_new_file_leaves_none_or_all_of_it(tmp_path: Path) -> None:
    recording = _record(tmp_path, lambda root: write_atomic(root / "data", NEW), old=None)
    assert _found(recording) == {"missing", "new"}
    assert _found(recording, at_the_end=True) == {"new"}


def test_a_synced_append_keeps_what_was_there(tmp_path: Path) -> None:
    recording = _record(
        tmp_path, lambda root: _write(root / "data", b"line\n", sync=True, flags=os.O_APPEND)
    )
    contents = {point.image.tree.contents()["data"] for point in crash_points(recording)}
    assert {each[: len(OLD)] for each in contents if each is not None} == {OLD}
    tails = {each[len(OLD) :] for each in contents if each is not None}
    assert tails == {
        b"",
        b"l",
        b"li",
        b"line",
        b"line\n",
        bytes(5),
        b"\0ine\n",
        b"\0\0ne\n",
        b"\0\0\0\0\n",
    }


# --- not safe -----------------------------------------------------------------------------------


def test_writing_in_place_is_found_to_tear(tmp_path: Path) -> None:
    recording = _record(tmp_path, lambda root: _write(root / "data", NEW, sync=True))
    assert _found(recording) == {"old", "empty", "torn", "new"}
    assert _found(recording, at_the_end=True) == {"new"}


def test_an_unsynced_write_may_be_lost_after_it_returned(tmp_path: Path) -> None:
    recording = _record(tmp_path, lambda root: _write(root / "data", NEW, sync=False, flags=0))
    assert "old" in _found(recording, at_the_end=True)


def test_a_rename_before_the_files_sync_may_leave_it_empty(tmp_path: Path) -> None:
    def rename(root: Path) -> None:
        _write(root / "new", NEW, sync=False)
        os.replace(root / "new", root / "data")
        _sync(root)

    assert {"empty", "torn"} <= _found(_record(tmp_path, rename), at_the_end=True)


def test_a_rename_without_the_directorys_sync_may_be_lost(tmp_path: Path) -> None:
    def rename(root: Path) -> None:
        _write(root / "new", NEW, sync=True)
        os.replace(root / "new", root / "data")

    assert _found(_record(tmp_path, rename), at_the_end=True) == {"old", "new"}


def test_a_files_sync_does_not_make_its_name_durable(tmp_path: Path) -> None:
    recording = _record(tmp_path, lambda root: _write(root / "data", NEW, sync=True), old=None)
    assert _found(recording, at_the_end=True) == {"missing", "new"}


def test_a_directorys_sync_does_not_make_the_bytes_durable(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        _write(root / "data", NEW, sync=False)
        _sync(root)

    recording = _record(tmp_path, write, old=None)
    assert _found(recording, at_the_end=True) == {"empty", "torn", "new"}


def test_a_new_directory_may_be_lost_with_all_that_was_synced_in_it(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        os.mkdir(root / "inner")
        _write(root / "inner" / "data", NEW, sync=True)
        _sync(root / "inner")

    recording = _record(tmp_path, write)
    assert _found(recording, "inner/data", at_the_end=True) == {"missing", "new"}


def test_two_unsynced_directory_operations_may_come_in_either_order(tmp_path: Path) -> None:
    def move(root: Path) -> None:
        os.link(root / "data", root / "kept")
        os.unlink(root / "data")

    names = {
        frozenset(point.image.tree.contents()) for point in crash_points(_record(tmp_path, move))
    }
    assert names == {frozenset(each) for each in (["data"], ["data", "kept"], ["kept"], [])}


def test_two_unsynced_writes_may_come_in_either_order(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        descriptor = os.open(root / "data", os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, b"first")
        os.write(descriptor, b"second")
        os.close(descriptor)

    recording = _record(tmp_path, write)
    tails = {
        (point.image.tree.contents()["data"] or b"")[len(OLD) :]
        for point in crash_points(recording)
    }
    assert {b"", b"first", b"firstsecond", bytes(5) + b"second"} <= tails


# --- what a materialised image is -----------------------------------------------------------------


def test_an_image_keeps_hard_links_modes_and_bytes(tmp_path: Path) -> None:
    def link(root: Path) -> None:
        os.link(root / "data", root / "second")
        os.mkdir(root / "inner", 0o700)
        descriptor = os.open(root / "second", os.O_WRONLY)
        os.pwrite(descriptor, b"changed", 3)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)

    recording = _record(tmp_path / "disk", link)
    point = crash_points(recording)[-1]
    images = {tuple(each.image.tree.contents().items()): each for each in crash_points(recording)}
    point = images[tuple(take_snapshot(tmp_path / "disk").contents().items())]
    (tmp_path / "image").mkdir()
    point.image.write_to(tmp_path / "image")
    data, second = tmp_path / "image" / "data", tmp_path / "image" / "second"
    assert data.samefile(second)
    assert data.read_bytes() == OLD[:3] + b"changed" + OLD[10:]
    assert data.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "image" / "inner").stat().st_mode & 0o777 == 0o700


def test_bytes_without_a_name_are_remembered(tmp_path: Path) -> None:
    def unlink(root: Path) -> None:
        os.unlink(root / "data")
        _sync(root)

    point = crash_points(_record(tmp_path, unlink))[-1]
    assert point.image.tree.contents() == {}
    assert point.image.remains == (OLD,)


def test_an_inode_number_that_is_used_again_is_another_file(tmp_path: Path) -> None:
    def again(root: Path) -> None:
        for name in ("one", "two", "three"):
            _write(root / name, name.encode(), sync=True)
            os.unlink(root / name)

    contents = [
        point.image.tree.contents().get("two") for point in crash_points(_record(tmp_path, again))
    ]
    assert {None, b"", b"two"} <= set(contents)
    assert b"one" not in contents


def test_equal_disks_count_once(tmp_path: Path) -> None:
    def sync(root: Path) -> None:
        for _ in range(5):
            _sync(root)

    assert len(crash_points(_record(tmp_path, sync))) == 1


# --- the recorder ---------------------------------------------------------------------------------


def test_a_write_behind_the_recorders_back_is_noticed(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"behind the recorder's back: \['data'\]"),
        recorded(tmp_path),
    ):
        (tmp_path / "data").write_bytes(b"through io.open")


def test_what_happens_elsewhere_is_not_recorded(tmp_path: Path) -> None:
    recording = _record(tmp_path / "disk", lambda root: write_atomic(tmp_path / "other", NEW))
    assert recording.steps == []


def test_calls_that_are_not_modelled_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"os\.symlink is not modelled"), recorded(tmp_path):
        os.symlink("data", tmp_path / "link")  # noqa: PTH211 (what is refused)
