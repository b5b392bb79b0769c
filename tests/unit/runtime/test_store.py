"""Durable writes on a disk that works; tests/hostile/test_failing_disk.py has the other kind."""

import os
import stat
import threading
from pathlib import Path

import pytest

from pfm_edge_runtime import store
from pfm_edge_runtime.errors import StorageError
from pfm_edge_runtime.store import (
    exclusive,
    require_replaceable,
    staged_directory,
    write_atomic,
)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_writes_a_new_file_and_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write_atomic(path, b"old")
    write_atomic(path, b"new" * 100_000)
    assert path.read_bytes() == b"new" * 100_000
    assert _names(tmp_path) == ["data"]


def test_keeps_the_mode_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write_atomic(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_goes_on_after_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    write_atomic(tmp_path / "data", b"0123456789")
    assert (tmp_path / "data").read_bytes() == b"0123456789"


def test_syncs_the_file_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        events.append("fsync directory" if stat.S_ISDIR(mode) else "fsync file")
        fsync(descriptor)

    def logged_replace(source: Path, target: Path) -> None:
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    write_atomic(tmp_path / "data", b"new")
    assert events == ["fsync file", "replace", "fsync directory"]


def test_works_where_files_have_one_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "data").write_bytes(b"old")
    write_atomic(tmp_path / "data", b"new")
    assert (tmp_path / "data").read_bytes() == b"new"


def test_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "data").symlink_to("real")
    with pytest.raises(StorageError, match="symbolic link"):
        write_atomic(tmp_path / "data", b"new")
    assert (tmp_path / "real").read_bytes() == b"old"


@pytest.mark.parametrize("where", ["missing/data", "file/data", "."])
def test_says_in_one_line_where_it_cannot_write(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        write_atomic(tmp_path / where, b"new")
    assert "\n" not in str(caught.value)
    assert _names(tmp_path) == ["file"]


@pytest.fixture(params=["exchange at once", "three renames"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "three renames":
        monkeypatch.setattr(store, "_exchange_at_once", lambda one, other: False)


def _write(target: Path, content: str, *, overwrite: bool, marker: str | None = None) -> None:
    with staged_directory(target, overwrite=overwrite, marker=marker) as staging:
        (staging / "inner").mkdir()
        (staging / "inner" / "file").write_text(content)
        (staging / "manifest.json").write_text(content)


def test_makes_a_new_directory_with_its_parents(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "b", "new", overwrite=False)
    assert (tmp_path / "a" / "b" / "inner" / "file").read_text() == "new"
    assert _names(tmp_path / "a") == ["b"]


def test_parents_that_were_made_for_a_failure_go_with_it(tmp_path: Path) -> None:
    def fail(target: Path, *beside: Path) -> None:
        with staged_directory(target, overwrite=False):
            for each in beside:
                each.touch()
            raise KeyboardInterrupt

    (tmp_path / "a").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "a" / "b" / "c" / "d")
    assert _names(tmp_path) == ["a"]
    assert _names(tmp_path / "a") == []
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "b" / "c" / "d", tmp_path / "b" / "mine")
    assert _names(tmp_path / "b") == ["mine"]


def test_fills_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    _write(tmp_path / "model", "new", overwrite=False)
    assert (tmp_path / "model" / "manifest.json").read_text() == "new"
    assert _names(tmp_path) == ["model"]


@pytest.mark.usefixtures("each_way")
def test_replaces_an_old_directory_whole(tmp_path: Path) -> None:
    _write(tmp_path / "model", "old", overwrite=False)
    (tmp_path / "model" / "extra").write_text("old")
    _write(tmp_path / "model", "new", overwrite=True)
    assert _names(tmp_path / "model") == ["inner", "manifest.json"]
    assert (tmp_path / "model" / "inner" / "file").read_text() == "new"
    assert _names(tmp_path) == ["model"]


def test_refuses_to_replace_unasked(tmp_path: Path) -> None:
    _write(tmp_path / "model", "old", overwrite=False)
    with pytest.raises(StorageError, match="--overwrite"):
        _write(tmp_path / "model", "new", overwrite=False)
    assert (tmp_path / "model" / "manifest.json").read_text() == "old"
    assert _names(tmp_path) == ["model"]


def test_refuses_to_replace_what_lacks_the_marker(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("mine")
    with pytest.raises(StorageError, match=r"manifest\.json"):
        _write(tmp_path / "photos", "new", overwrite=True, marker="manifest.json")
    assert _names(tmp_path / "photos") == ["holiday.jpg"]


def test_refuses_to_replace_a_file_or_the_directory_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="is a file"):
        _write(tmp_path / "file", "new", overwrite=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="in use"):
        _write(tmp_path, "new", overwrite=True)
    assert _names(tmp_path) == ["file"]


def test_follows_a_link_to_the_directory_that_it_names(tmp_path: Path) -> None:
    _write(tmp_path / "model-1", "old", overwrite=False)
    (tmp_path / "model").symlink_to("model-1")
    _write(tmp_path / "model", "new", overwrite=True)
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "model-1" / "manifest.json").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_exception_in_the_block_leaves_everything_as_it_was(
    tmp_path: Path, error: BaseException
) -> None:
    _write(tmp_path / "model", "old", overwrite=False)

    def replace() -> None:
        with staged_directory(tmp_path / "model", overwrite=True) as staging:
            (staging / "manifest.json").write_text("new")
            raise error

    with pytest.raises(type(error)):
        replace()
    assert (tmp_path / "model" / "manifest.json").read_text() == "old"
    assert _names(tmp_path) == ["model"]


def test_a_failed_write_in_the_block_is_ours(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="No space left"),
        staged_directory(tmp_path / "model", overwrite=False),
    ):
        raise OSError(28, "No space left on device")
    assert _names(tmp_path) == []


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with exclusive(tmp_path):
            inside.set()
            leave.wait(10)
            order.append("first leaves")

    def second() -> None:
        with exclusive(tmp_path):
            order.append("second enters")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first leaves", "second enters"]
    assert _names(tmp_path) == []


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write_while_another_does() -> None:
        with staged_directory(target, overwrite=False) as staging:
            (staging / "manifest.json").write_text("ours")
            _write(target, "theirs", overwrite=False)

    with pytest.raises(StorageError, match="exists and is not empty"):
        write_while_another_does()
    assert (target / "manifest.json").read_text() == "theirs"
    assert _names(tmp_path) == ["model"]


def test_a_directory_is_not_exchanged_while_somebody_holds_it(tmp_path: Path) -> None:
    """And who waited for the old one holds the new one then."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_bytes(b"")
    seen: list[list[str]] = []

    def replace_it() -> None:
        with staged_directory(target, overwrite=True) as staging:
            (staging / "new").write_bytes(b"")

    def look() -> None:
        with exclusive(target):
            seen.append(_names(target))

    with exclusive(target):
        replacing = threading.Thread(target=replace_it)
        replacing.start()
        replacing.join(0.3)
        assert _names(target) == ["old"]
        looking = threading.Thread(target=look)
        looking.start()
    for thread in (replacing, looking):
        thread.join(30)
    assert seen in ([["old"]], [["new"]])
    assert _names(target) == ["new"]
    assert _names(tmp_path) == ["model"]


def test_what_is_not_known_keeps_a_directory_and_is_named(tmp_path: Path) -> None:
    target = tmp_path / "model"
    _write(target, "old", overwrite=False)
    (target / ".model.0123456789abcdef.tmp").mkdir()
    (target / ".model.0123456789abcdef.tmp" / "file").touch()  # of a process that was killed
    (target / ".file.dying").touch()
    (target / "empty").mkdir()
    (target / "link").symlink_to(target / "inner")
    for foreign, known in (
        (target / "link", {"manifest.json", "inner/file"}),
        (target / "inner" / "file", {"manifest.json", "link"}),
    ):
        with (
            pytest.raises(StorageError, match=f"{foreign} would go with {target}"),
            staged_directory(target, overwrite=True, known=lambda _, found=known: found),
        ):
            raise AssertionError("the work began")
        assert foreign.exists()
    (target / "link").unlink()
    with staged_directory(
        target, overwrite=True, known=lambda _: {"manifest.json", "inner/file"}
    ) as staging:
        (staging / "new").touch()
    assert _names(target) == ["new"]


def test_what_a_killed_process_left_goes_and_what_one_works_in_stays(tmp_path: Path) -> None:
    names = [f".model.{digit * 16}.tmp" for digit in "abc"]
    for name in names[:2]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "graph").touch()
    (tmp_path / names[2]).touch()  # a file of that name is another function's
    with exclusive(tmp_path / names[1]):
        _write(tmp_path / "model", "new", overwrite=False)
    assert _names(tmp_path) == [*names[1:], "model"]
    with staged_directory(tmp_path / "model", overwrite=True) as staging:
        (staging / "ours").touch()
        _write(tmp_path / "model", "theirs", overwrite=True)  # does not take ours for a leftover
    assert _names(tmp_path) == [names[2], "model"]
    assert _names(tmp_path / "model") == ["ours"]


def test_a_mount_point_is_refused_before_the_work() -> None:
    with pytest.raises(StorageError, match="/ is a mount point: name a directory in it"):
        require_replaceable(Path("/"), overwrite=True)


def test_what_was_being_replaced_in_three_renames_is_put_back(tmp_path: Path) -> None:
    """A process that is killed between them leaves neither in its place."""
    target, old = tmp_path / "model", tmp_path / ".model.0123456789abcdef.old.tmp"
    other = tmp_path / ".model.v2.0123456789abcdef.tmp"  # another directory's
    other.mkdir()
    _write(target, "old", overwrite=False)
    target.rename(old)
    with pytest.raises(StorageError, match="exists and is not empty"):
        _write(target, "new", overwrite=False)
    assert (target / "manifest.json").read_text() == "old"
    target.rename(old)
    _write(target, "new", overwrite=True)
    assert (target / "manifest.json").read_text() == "new"
    assert _names(tmp_path) == [other.name, "model"]


def test_an_error_names_the_place_that_was_asked_for(tmp_path: Path) -> None:
    def fail(error: type[Exception]) -> None:
        with staged_directory(tmp_path / "model", overwrite=False) as staging:
            if error is OSError:
                raise OSError(28, "No space left on device", str(staging / "graph"))
            raise StorageError(f"{staging / 'graph'} cannot be written")

    for error in (OSError, StorageError):
        with pytest.raises(StorageError) as caught:
            fail(error)
        assert str(tmp_path / "model" / "graph") in str(caught.value)
        assert ".tmp" not in str(caught.value)
