"""Opening a model package: what is missing, altered or odd is refused, in one line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import (
    BundleFormatError,
    ManifestError,
    PackageError,
    VerificationError,
)
from pfm_edge_runtime.package import ModelPackage
from tests.support.tiny_package import LABELS, TinyPackage, tiny_graph, write_tiny_package


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def _refusal(tiny: TinyPackage, kind: type[Exception], *, verify_files: bool = True) -> str:
    with pytest.raises(kind) as caught:
        ModelPackage.open(tiny.directory, verify_files=verify_files)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(label in message for label in LABELS)
    return message


def test_opens_what_fits_together(tiny: TinyPackage) -> None:
    package = ModelPackage.open(tiny.directory)
    assert package.manifest == tiny.manifest
    assert package.manifest_digest == digest_of(tiny.manifest.to_bytes())
    assert package.bundle.to_bytes() == tiny.bundle.to_bytes()
    assert package.bundle_bytes == tiny.bundle_path.stat().st_size
    assert package.files.read_graph(package.files.dynamic_variant()) == tiny_graph()


@pytest.mark.parametrize(
    "name", ["manifest.json", "bundle.safetensors", "backbone.onnx", "golden.safetensors"]
)
def test_names_the_file_that_is_missing(tiny: TinyPackage, name: str) -> None:
    (tiny.directory / name).unlink()
    assert f"{name} is missing" in _refusal(tiny, PackageError)


@pytest.mark.parametrize("name", ["backbone.onnx", "golden.safetensors"])
@pytest.mark.parametrize("edit", [lambda data: data[:-1], lambda data: data + b"\0", lambda _: b""])
def test_names_the_file_that_was_altered(
    tiny: TinyPackage, name: str, edit: Callable[[bytes], bytes]
) -> None:
    path = tiny.directory / name
    path.write_bytes(edit(path.read_bytes()))
    assert f"{name} is not the file" in _refusal(tiny, PackageError)


def test_the_graph_may_be_damaged_where_only_the_bundle_matters(tiny: TinyPackage) -> None:
    (tiny.directory / "backbone.onnx").write_bytes(b"damaged")
    package = ModelPackage.open(tiny.directory, verify_files=False)
    assert len(package.bundle) == len(LABELS)
    with pytest.raises(PackageError, match="is not the file"):
        package.files.read_graph(package.files.dynamic_variant())


def test_a_manifest_that_breaks_the_format(tiny: TinyPackage) -> None:
    (tiny.directory / "manifest.json").write_bytes(b'{"format": ')
    assert "manifest.json" in _refusal(tiny, ManifestError)


def test_a_manifest_that_was_edited(tiny: TinyPackage) -> None:
    path = tiny.directory / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"bicubic", b"nearest"))
    assert "step 4" in _refusal(tiny, VerificationError)


def test_a_manifest_with_another_line_end_is_another_manifest(tiny: TinyPackage) -> None:
    path = tiny.directory / "manifest.json"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert "manifest.json" in _refusal(tiny, VerificationError)


def test_a_bundle_of_another_package(tiny: TinyPackage, tmp_path: Path) -> None:
    other = write_tiny_package(tmp_path / "other", graph=b"another graph")
    tiny.bundle_path.write_bytes(other.bundle_path.read_bytes())
    assert "not issued for this manifest.json" in _refusal(tiny, VerificationError)


def test_a_bundle_cut_short(tiny: TinyPackage) -> None:
    tiny.bundle_path.write_bytes(tiny.bundle_path.read_bytes()[:-1])
    message = _refusal(tiny, BundleFormatError, verify_files=False)
    assert message.startswith(f"{tiny.bundle_path}: step 2: ")
    assert "copy the bundle again" in message


@pytest.mark.parametrize("name", ["manifest.json", "bundle.safetensors", "backbone.onnx"])
def test_a_pipe_or_directory_in_place_of_a_file(tiny: TinyPackage, name: str) -> None:
    path = tiny.directory / name
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in _refusal(tiny, PackageError)  # and does not wait for a writer
    path.unlink()
    path.mkdir()
    assert name in _refusal(tiny, PackageError)


def test_a_bundle_behind_a_link(tiny: TinyPackage) -> None:
    elsewhere = tiny.directory / "elsewhere"
    tiny.bundle_path.rename(elsewhere)
    tiny.bundle_path.symlink_to(elsewhere)
    assert "symbolic link" in _refusal(tiny, PackageError)


def test_a_graph_behind_a_link_is_verified_like_any(tiny: TinyPackage, tmp_path: Path) -> None:
    graph = tiny.directory / "backbone.onnx"
    graph.rename(tmp_path / "shared.onnx")
    graph.symlink_to(tmp_path / "shared.onnx")
    assert ModelPackage.open(tiny.directory).manifest == tiny.manifest


@pytest.mark.parametrize("where", ["nowhere", "model/manifest.json", "x" * 300, "nul\0"])
def test_no_package_at_all(tiny: TinyPackage, tmp_path: Path, where: str) -> None:
    with pytest.raises(PackageError, match="no model package") as caught:
        ModelPackage.open(tmp_path / where)
    assert "\n" not in str(caught.value)


def test_a_sparse_file_of_two_gigabytes_is_not_read(tiny: TinyPackage) -> None:
    with tiny.bundle_path.open("r+b") as file:
        file.truncate(2**31)
    assert "larger than" in _refusal(tiny, PackageError)
    with (tiny.directory / "manifest.json").open("r+b") as file:
        file.truncate(2**31)
    assert "larger than" in _refusal(tiny, PackageError)
