"""Where an export may go: nobody's files are replaced, and replaced classes are overwritten."""

import errno
import os
from pathlib import Path

import pytest

from pfm_edge_exporters import OnnxFromTorch
from pfm_edge_exporters.targets import export_target, find_target
from pfm_edge_runtime.errors import ConfigError, PfmEdgeError, StorageError
from tests.support.tiny_export import FILES, contents, export
from tests.support.tiny_package import TinyPackage, write_tiny_package
from tests.support.tiny_torch import prefix_graph


@pytest.fixture(autouse=True)
def converted(monkeypatch):
    """Skip the conversion, which other tests exercise: its result is known."""
    graph = prefix_graph()
    monkeypatch.setattr(OnnxFromTorch, "export", lambda _self, _source: graph)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def make(package: TinyPackage, name: str, out: Path) -> Path:
    target = find_target(name)
    options = target.options()
    return export_target(package.directory, target, options, out=out, overwrite=True).path


def refused(error: type[PfmEdgeError], operation) -> str:
    with pytest.raises(error) as caught:
        operation()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_somebody_put_into_a_package_keeps_it(tmp_path):
    out = export(tmp_path / "model").path
    for foreign in (out / "NOTES.txt", out / "mine" / "manifest.json"):
        foreign.parent.mkdir(exist_ok=True)
        foreign.write_text("mine")
        before = contents(tmp_path)
        message = refused(StorageError, lambda: export(out, overwrite=True))
        assert message.startswith(f"{foreign} would go with {out}")
        assert contents(tmp_path) == before
        foreign.unlink()
    (out / ".bundle.safetensors.dying").touch()  # what is ours does not
    (out / "manifest.json").write_bytes(b"damaged")
    export(out, overwrite=True)
    assert contents(out).keys() == FILES


def test_what_is_in_the_way_is_named_but_for_what_a_system_put_there(tmp_path):
    out = export(tmp_path / "model").path
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "__pycache__/x.cpython-312.pyc"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).touch()
    export(out, overwrite=True)
    assert contents(out).keys() == FILES
    for name in "abcde":
        (out / name).touch()
    message = refused(StorageError, lambda: export(out, overwrite=True))
    assert message.startswith(f"{out / 'a'}, {out / 'b'}, {out / 'c'} and 2 more would go with")
    assert "move or remove them" in message


def test_nothing_is_exported_into_what_an_export_replaces(tiny, tmp_path):
    made = make(tiny, "ort-adapter", tmp_path / "adapter")
    before = contents(tmp_path)
    for out, inside in ((tiny.directory, tiny.directory), (made, made)):
        inner = out / "a" / "b"
        assert f"{inner} is in " in refused(ConfigError, lambda to=inner: export(to))
        message = refused(ConfigError, lambda to=inner: make(tiny, "ort-adapter", to))
        assert f" {inside}, " in message
    message = refused(StorageError, lambda: export(made, overwrite=True))
    assert message.startswith(f"{made} is no model package")
    assert contents(tmp_path) == before


def test_a_repository_is_no_package(tiny, tmp_path):
    made = make(tiny, "triton", tmp_path / "repository")
    message = refused(StorageError, lambda: export(made.parent, overwrite=True))
    assert message.startswith(f"{made.parent} is no model package, but {made} in it")


@pytest.mark.parametrize("name", ["triton", "ort-adapter"])
def test_what_somebody_put_into_an_artefact_keeps_it(tiny, tmp_path, name):
    made = make(tiny, name, tmp_path / "made")
    (made / "mine").mkdir()
    (made / "mine" / "labels.txt").write_text("mine")
    before = contents(made)
    message = refused(StorageError, lambda: make(tiny, name, tmp_path / "made"))
    assert message.startswith(f"{made / 'mine' / 'labels.txt'} would go with {made}")
    assert contents(made) == before
    (made / "mine" / "labels.txt").unlink()
    make(tiny, name, tmp_path / "made")
    assert contents(made).keys() == before.keys() - {"mine/labels.txt"}


def test_the_classes_of_a_package_that_is_replaced_are_overwritten(tmp_path, monkeypatch):
    out = export(tmp_path / "model").path
    size, removed, unlink = (out / "bundle.safetensors").stat().st_size, [], os.unlink

    def watched(path, *, dir_fd=None):
        if os.path.basename(path) == "bundle.safetensors":  # noqa: PTH119 (beside a descriptor)
            descriptor = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
            removed.append(os.read(descriptor, 2 * size))
            os.close(descriptor)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", watched)
    export(out, overwrite=True)
    assert removed == [bytes(size)]
    assert (out / "bundle.safetensors").stat().st_size == size


def test_a_read_only_package_is_replaced_and_overwritten_or_the_file_is_named(
    tmp_path, monkeypatch
):
    out = export(tmp_path / "model").path
    opened, unlink, chmod = os.open, os.unlink, os.chmod

    def read_only() -> None:
        for each in (*out.iterdir(), out):
            chmod(each, 0o555 if each == out else 0o444)

    def require(path: str | Path) -> None:  # what the system asks of all but root
        if os.path.exists(path) and not os.stat(path).st_mode & 0o200:  # noqa: PTH110, PTH116 (of either kind)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def opened_by_no_root(path, flags, *given, **how):
        if flags & (os.O_WRONLY | os.O_RDWR) and not flags & os.O_CREAT:
            require(path)
        return opened(path, flags, *given, **how)

    def unlink_by_no_root(path, *, dir_fd=None):
        require(Path(path).parent if dir_fd is None else f"/proc/self/fd/{dir_fd}")
        unlink(path, dir_fd=dir_fd)

    def refuse(path, *_given, **_how):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(os, "open", opened_by_no_root)
    monkeypatch.setattr(os, "unlink", unlink_by_no_root)
    read_only()
    export(out, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    read_only()
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", refuse)  # somebody else's
        for _ in range(2):
            message = refused(StorageError, lambda: export(out, overwrite=True))
            assert message.startswith(f"{out} is new and complete, but ")
            assert f"make {tmp_path}/.model." in message
            assert "bundle.safetensors writable" in message
    export(out, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
