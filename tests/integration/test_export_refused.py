"""Exports that fail, at any call of the disk too: nothing is published, nothing old is lost."""

import errno
import os
from pathlib import Path

import pytest
import torch

from pfm_edge_exporters import (
    ExportError,
    OnnxFromTorch,
    ParityError,
    check_golden,
)
from pfm_edge_runtime.errors import (
    BundleError,
    ManifestError,
    StorageError,
)
from tests.support.tiny_export import FILES, contents, export, make_bundle, old_package
from tests.support.tiny_torch import (
    JOINT_INPUTS,
    Joint,
    bare_source,
    prefix_graph,
    source_of,
)


@pytest.fixture
def converted(monkeypatch):
    """Skip the conversion, which other tests exercise: its result is known."""
    graph = prefix_graph()
    monkeypatch.setattr(OnnxFromTorch, "export", lambda _self, _source: graph)


def require_untouched(out: Path, before: dict[str, bytes]) -> None:
    assert contents(out.parent) == before
    assert [each.name for each in out.parent.iterdir()] == [out.name]


def refused(out: Path, error, **options) -> str:
    """Export over a package, which must fail and leave everything as it was."""
    before = old_package(out)
    with pytest.raises(error) as caught:
        export(out, **{"overwrite": True, **options})
    require_untouched(out, before)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_graph_that_differs_is_not_published(tmp_path):
    class TwoFaced(Joint):
        """Computes one thing when run and another when traced."""

        def forward(self, image, *class_tensors):
            logits, embedding = super().forward(image, *class_tensors)
            return logits, embedding + 3e-4 if torch.compiler.is_exporting() else embedding

    source = source_of(TwoFaced(), JOINT_INPUTS, "joint")
    message = refused(tmp_path / "model", ParityError, source=source)
    assert "embedding values differ by 3.0e-04" in message


def unreadable(_manifest):
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", "checkpoint")


def interrupted(_manifest):
    raise KeyboardInterrupt


@pytest.mark.usefixtures("converted")
@pytest.mark.parametrize(
    ("bundle", "error"),
    [
        (lambda manifest: b"no bundle", BundleError),
        (lambda manifest: make_bundle(manifest.replace(b"prefix", b"joint")), BundleError),
        (unreadable, ExportError),
        (interrupted, KeyboardInterrupt),
    ],
)
def test_a_bundle_that_cannot_be_used_is_not_published(tmp_path, bundle, error):
    refused(tmp_path / "model", error, bundle=bundle)


@pytest.mark.usefixtures("converted")
def test_an_existing_directory_is_kept_unless_told(tmp_path):
    out = tmp_path / "model"
    assert "--overwrite" in refused(out, StorageError, overwrite=False)
    export(out, overwrite=True)
    new, old = contents(out), contents(export(tmp_path / "another").path)
    same = {name for name in FILES if new[name] == old[name]}
    assert same == FILES - {"bundle.safetensors"}  # whose class ids and salts are random
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "draft.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds no manifest\.json"):
        export(tmp_path / "letters", overwrite=True)
    assert contents(tmp_path / "letters") == {"draft.txt": b"mine"}


def test_what_cannot_work_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxFromTorch, "export", None)  # a call would be a TypeError
    assert "1 to 64 inputs" in refused(tmp_path / "a" / "m", ManifestError, source=bare_source())
    assert "max_classes" in refused(tmp_path / "b" / "m", ExportError, max_classes=0)
    refused(tmp_path / "c" / "m", StorageError, overwrite=False)


class FullDisk:
    """Lets the system calls that write succeed until one of them, which fails, once."""

    NAMES = ("write", "fsync", "rename", "replace", "mkdir")

    def __init__(self, monkeypatch, survived: int) -> None:
        self.left = survived
        self.struck = False
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, call):
        def wrapped(*args, **kwargs):
            self.left -= 1
            if self.left == -1:
                self.struck = True
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*args, **kwargs)

        return wrapped


@pytest.mark.usefixtures("converted")
def test_a_full_disk_at_any_moment_leaves_the_old_package(tmp_path):
    out = tmp_path / "model"
    before = old_package(out)
    for survived in range(1000):
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, survived)
            failure = None
            try:
                export(out, overwrite=True)
            except StorageError as error:
                failure = str(error)
        assert disk.struck == (failure is not None)
        if failure is None:
            break
        assert "No space left on device" in failure
        assert "\n" not in failure
        require_untouched(out, before)
    assert survived > 20
    assert contents(out).keys() == FILES
    check_golden(out)
