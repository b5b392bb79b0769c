"""Taking classes out of exported packages: what is no package, and what cannot be looked at."""

import errno
from pathlib import Path
from unittest import mock

import pytest

from pfm_edge.erasing import redact
from pfm_edge_runtime.errors import PackageError
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
