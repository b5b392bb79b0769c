"""Taking classes out of exported packages: what is no package, and what cannot be looked at."""

import errno
import shutil
import threading
from pathlib import Path
from unittest import mock

import pytest

from pfm_edge.erasing import redact
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.errors import PackageError
from pfm_edge_runtime.store import staged_directory
from tests.support.tiny_package import TinyPackage, write_tiny_package


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def test_a_package_that_is_not_where_it_was(tiny: TinyPackage, tmp_path: Path) -> None:
    assert not redact(tmp_path / "elsewhere", {tiny.class_id("rose")})
    assert redact(tiny.directory, {tiny.class_id("rose")})


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
def test_a_place_that_cannot_be_looked_at(tiny: TinyPackage, code: int) -> None:
    """It may hold the class still: that is no package that is gone."""
    with (
        mock.patch.object(Path, "is_dir", side_effect=OSError(code, "refused")),
        pytest.raises(PackageError, match="readable"),
    ):
        redact(tiny.directory, {tiny.class_id("rose")})


def test_a_link_in_the_place_of_the_bundle(tiny: TinyPackage, tmp_path: Path) -> None:
    tiny.bundle_path.rename(tmp_path / "outside")
    tiny.bundle_path.symlink_to(tmp_path / "outside")
    with pytest.raises(PackageError, match="symbolic link"):
        redact(tiny.directory, {tiny.class_id("rose")})


def test_what_a_killed_export_left_goes_and_one_under_way_is_waited_for(tmp_path: Path) -> None:
    target = tmp_path / "made"
    left = write_tiny_package(tmp_path / ".made.0123456789abcdef.tmp")
    under_way, written = threading.Event(), threading.Event()

    def export() -> None:
        with staged_directory(target, overwrite=False) as staging:
            shutil.copytree(tmp_path / "model", staging, dirs_exist_ok=True)
            under_way.set()
            written.wait(10)

    tiny = write_tiny_package(tmp_path / "model")
    shutil.move(left.directory, tmp_path / "kept")
    exporting = threading.Thread(target=export)
    exporting.start()
    assert under_way.wait(10)
    shutil.move(tmp_path / "kept", left.directory)
    forgetting = threading.Thread(target=redact, args=(target, {tiny.class_id("rose")}))
    forgetting.start()
    forgetting.join(0.3)
    assert forgetting.is_alive()
    written.set()
    for thread in (exporting, forgetting):
        thread.join(10)
    bundle = Bundle.from_bytes((target / "bundle.safetensors").read_bytes())
    assert tiny.class_id("rose") not in bundle.class_ids
    assert sorted(each.name for each in tmp_path.iterdir()) == ["made", "model"]
