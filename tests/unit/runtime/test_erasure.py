"""Replacing a file erases what it held; a file that somebody else still uses is left alone."""

import os
from pathlib import Path

import pytest

from pfm_edge_runtime import _disk, erasure
from pfm_edge_runtime.erasure import erase, finish, old_bytes, replace_erasing
from pfm_edge_runtime.errors import StorageError
from tests.support.failing_disk import Fault

OLD, NEW = b"old " * 1000, b"new"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(OLD)
    return path


def _names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def test_the_old_bytes_are_zeros_and_the_new_ones_are_there(path: Path) -> None:
    with path.open("rb") as old:
        done = replace_erasing(path, NEW)
        assert old.read() == bytes(len(OLD))
    assert done.method == "overwritten"
    assert path.read_bytes() == NEW
    assert _names(path) == ["data"]


def test_a_file_with_another_name_keeps_its_bytes(path: Path) -> None:
    os.link(path, path.with_name("backup"))
    assert replace_erasing(path, NEW).method == "unlinked"
    assert path.with_name("backup").read_bytes() == OLD
    assert _names(path) == ["backup", "data"]


def test_a_disk_without_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_disk, "_second_name", lambda path, backup: False)
    assert replace_erasing(path, NEW).method == "unlinked"
    assert (path.read_bytes(), _names(path)) == (NEW, ["data"])


def test_finishing_before_the_rename_keeps_the_file(path: Path) -> None:
    os.link(path, path.with_name(".data.dying"))
    path.with_name(".data.01.tmp").write_bytes(NEW)
    assert finish(path) is None
    assert (path.read_bytes(), _names(path)) == (OLD, ["data"])


def test_finishing_after_the_rename_erases_the_old_file(path: Path) -> None:
    dying = path.with_name(".data.dying")
    path.rename(dying)
    path.write_bytes(NEW)
    with dying.open("rb") as old:
        done = finish(path)
        assert old.read() == bytes(len(OLD))
    assert done is not None
    assert done.method == "overwritten"
    assert (path.read_bytes(), _names(path)) == (NEW, ["data"])
    assert finish(path) is None


def test_finishing_waits_until_the_new_name_is_on_disk(path: Path) -> None:
    dying = path.with_name(".data.dying")
    path.rename(dying)
    path.write_bytes(NEW)
    with Fault("fsync", 1).injected(), pytest.raises(StorageError, match="next attempt"):
        finish(path)
    assert dying.read_bytes() == OLD


def test_leaves_the_files_of_others(path: Path) -> None:
    others = [".data.bak", ".database.01.tmp", "data.tmp"]
    for name in others:
        path.with_name(name).write_bytes(b"")
    replace_erasing(path, NEW)
    assert _names(path) == sorted([*others, "data"])


def test_what_is_no_file_is_unlinked_and_never_waited_for(path: Path, tmp_path: Path) -> None:
    """A package may come from anywhere, with anything under the names that we clear away."""
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    path.with_name(".data.01.tmp").symlink_to(outside)
    os.mkfifo(path.with_name(".data.02.tmp"))
    path.with_name(".data.dying").symlink_to(path)
    path.with_name(".data.03.tmp").mkdir()
    finish(path)
    assert _names(path) == [".data.03.tmp", "data", "outside"]
    assert outside.read_bytes() == path.read_bytes() == OLD
    assert replace_erasing(path, NEW).method == "overwritten"


def test_a_refused_erasure_keeps_the_name(path: Path) -> None:
    for call in ("pwrite", "fsync", "unlink"):
        with Fault(call, 1).injected(), pytest.raises(StorageError, match="cannot be erased yet"):
            erase(path)
        assert _names(path) == ["data"]


@pytest.mark.parametrize(
    ("kind", "options", "in_place"),
    [
        ("ext4", "rw", True),
        ("ext4", "rw,data=journal", False),
        ("btrfs", "rw", False),
        ("overlay", "rw", False),
        ("somethingfs", "rw", None),
    ],
)
def test_says_whether_blocks_stay_in_place(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, in_place: bool | None
) -> None:
    monkeypatch.setattr(erasure, "_file_system", lambda path: (kind, options))
    done = old_bytes("overwritten", path)
    assert (done.file_system, done.in_place) == (kind, in_place)


def test_reads_the_file_system_from_the_system(path: Path) -> None:
    assert old_bytes("overwritten", path).file_system != "unknown"
