"""A model package: the directory with the graph, its manifest and the bundle, verified on opening.

Owns reading packages from disk. What it returns was checked against the manifest, and the bundle
against both::

    package = ModelPackage.open(Path("model"))
    package.manifest.attention, package.bundle.labels

Writing belongs to others: the exporters make a package, ``pfm_edge_runtime.forgetting`` rewrites
its bundle.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pfm_edge_runtime.bundle import Bundle, BundleLimits, ModelBinding
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import BundleError, ManifestError, PackageError
from pfm_edge_runtime.manifest import BUNDLE_FILE, MANIFEST_FILE, Manifest, Variant
from pfm_edge_runtime.store import without_waiting

__all__ = ["ModelPackage", "require_directory"]

_MAX_MANIFEST_BYTES = 2**20
_MAX_GRAPH_BYTES = 2**31 - 1  # a protobuf message ends there
_CHUNK_BYTES = 2**20
_COPY_AGAIN = "copy the package again from where it was exported"


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package whose parts fit together.

    Attributes:
        directory: Where it lies.
        manifest: What it says about its graph.
        manifest_digest: ``"sha256:…"`` of the bytes of ``manifest.json``.
        bundle: The classes known now.
        bundle_bytes: Size of the bundle's file, in bytes.
    """

    directory: Path
    manifest: Manifest
    manifest_digest: str
    bundle: Bundle
    bundle_bytes: int

    @classmethod
    def open(cls, directory: str | Path, *, verify_files: bool = True) -> "ModelPackage":
        """Open a package and verify it.

        The bundle's own verification has the numbers of its specification (``bundle``); the
        package's part of its step 4, that manifest, files and bundle belong together, is here.

        Args:
            directory: The package.
            verify_files: Whether to read every file that the manifest lists and compare its
                digest. What needs only the bundle can go without: a class can be forgotten
                though the graph is damaged.

        Raises:
            PackageError: Something is missing, unreadable or altered.
            ManifestError: ``manifest.json`` breaks the format.
            BundleError: The bundle breaks the format, or belongs to another package.
        """
        directory = Path(directory)
        require_directory(directory)
        # Step 4.1: the manifest is well formed.
        path = directory / MANIFEST_FILE
        data = _read(path, _MAX_MANIFEST_BYTES)
        try:
            manifest = Manifest.from_bytes(data)
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}; {_COPY_AGAIN}") from error
        digest = digest_of(data)
        # Step 4.2: the package's files match it.
        if verify_files:
            for name, expected in manifest.files.items():
                _require_digest(directory / name, expected)
        # Steps 1 to 9: the bundle is well formed, and issued for this manifest.
        binding = ModelBinding(manifest.model_id, digest, manifest.bundle_inputs)
        bundle, size = _open_bundle(directory, binding)
        return cls(directory, manifest, digest, bundle, size)

    def dynamic_variant(self) -> Variant:
        """Return the first graph whose class axis is dynamic.

        Raises:
            PackageError: Every graph has a fixed capacity.
        """
        for variant in self.manifest.variants:
            if variant.capacity is None:
                return variant
        raise PackageError(
            f"{self.directory} holds no graph with a dynamic class axis: export it without --static"
        )

    def read_graph(self, variant: Variant) -> bytes:
        """Read a graph and verify these very bytes: what is loaded is what was checked.

        Raises:
            PackageError: The file is missing, unreadable or altered.
        """
        path = self.directory / variant.file
        data = _read(path, _MAX_GRAPH_BYTES)
        if digest_of(data) != self.manifest.files[variant.file]:
            raise _altered(path)
        return data


def require_directory(directory: Path) -> None:
    """Require that there is a directory that might be a package.

    Raises:
        PackageError: There is none.
    """
    if not os.path.isdir(directory):  # noqa: PTH112 (Path.is_dir raises what isdir answers)
        raise PackageError(
            f"{directory} is no model package: there is no such directory; "
            "make one with pfm-edge export"
        )


def _open_bundle(directory: Path, binding: ModelBinding) -> tuple[Bundle, int]:
    """Read the bundle into private memory and verify it; also return its size in bytes."""
    path = directory / BUNDLE_FILE
    limits = BundleLimits()
    data = _read(path, limits.max_file_bytes, follow_links=False)
    try:
        return Bundle.from_bytes(data, limits=limits, binding=binding), len(data)
    except BundleError as error:
        raise type(error)(f"{path}: {error}; copy the bundle again from the export") from error


def _require_digest(path: Path, expected: str) -> None:
    digest = hashlib.sha256()
    with _opened(path, follow_links=True) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if f"sha256:{digest.hexdigest()}" != expected:
        raise _altered(path)


def _altered(path: Path) -> PackageError:
    return PackageError(f"{path} is not the file that {MANIFEST_FILE} lists: {_COPY_AGAIN}")


def _read(path: Path, max_bytes: int, *, follow_links: bool = True) -> bytes:
    with _opened(path, follow_links=follow_links) as file:
        # One byte more than allowed tells, even if the file grows meanwhile.
        data = file.read(max_bytes + 1) if _size(file) <= max_bytes else None
    if data is None or len(data) > max_bytes:
        raise PackageError(f"{path} is larger than {max_bytes} bytes: {_COPY_AGAIN}")
    return data


@contextmanager
def _opened(path: Path, *, follow_links: bool) -> Iterator[BinaryIO]:
    """Open a regular file; a pipe or a device would make the reader wait, or never end.

    The bundle is not opened through a link: to forget is to rewrite it, and the file that the
    link points to would keep the class.
    """
    try:
        if not follow_links and path.is_symlink():
            raise PackageError(f"{path} is a symbolic link: put the file itself there")
        with open(path, "rb", opener=without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PackageError(f"{path} is no regular file: {_COPY_AGAIN}")
            yield file
    except FileNotFoundError as error:
        raise PackageError(f"{path} is missing: {_COPY_AGAIN}") from error
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror or error}") from error


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
