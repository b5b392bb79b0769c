"""A model package: the directory with the graph, its manifest and the bundle, read from disk.

Owns reading packages. What it returns was checked against the manifest, and the bundle against
both; whom the bundle is from is asked by ``pfm_edge_runtime.opening``, which knows the device::

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
from io import BufferedReader
from pathlib import Path

from pfm_edge_runtime.bundle import Bundle, BundleLimits, ModelBinding, new_buffer
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import BundleError, ManifestError, PackageError
from pfm_edge_runtime.manifest import BUNDLE_FILE, MANIFEST_FILE, Manifest, Variant
from pfm_edge_runtime.store import without_waiting

__all__ = ["BundleFile", "ModelPackage", "PackageFiles", "require_directory"]

_MAX_MANIFEST_BYTES = 2**20
_MAX_GRAPH_BYTES = 2**31 - 1  # a protobuf message ends there
_CHUNK_BYTES = 2**20
_COPY_AGAIN = "copy the package again from where it was exported"


@dataclass(frozen=True, slots=True)
class BundleFile:
    """The bytes of a bundle, read into private memory.

    Attributes:
        path: Where it lies.
        data: The whole file.
        identity: What tells the file that was read from one that took its place.
    """

    path: Path
    data: memoryview
    identity: tuple[int, ...]

    def was_replaced(self) -> bool:
        """Tell whether another file has that name by now, or none."""
        try:
            return _identity(os.stat(self.path)) != self.identity  # noqa: PTH116 (beside os.fstat)
        except OSError:
            return True


@dataclass(frozen=True, slots=True)
class PackageFiles:
    """The files of a package but for its bundle; they fit together.

    Attributes:
        directory: Where it lies.
        manifest: What it says about its graph.
        manifest_digest: ``"sha256:…"`` of the bytes of ``manifest.json``.
    """

    directory: Path
    manifest: Manifest
    manifest_digest: str

    @classmethod
    def open(cls, directory: str | Path, *, verify_files: bool = True) -> "PackageFiles":
        """Open a package's files and verify them.

        This is the package's part of step 4 of a bundle's verification (``bundle``): that
        manifest, files and bundle belong together.

        Args:
            directory: The package.
            verify_files: Whether to read every file that the manifest lists and compare its
                digest. What needs only the bundle can go without: a class can be forgotten
                though the graph is damaged.

        Raises:
            PackageError: Something is missing, unreadable or altered.
            ManifestError: ``manifest.json`` breaks the format.
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
        # Step 4.2: the package's files match it.
        if verify_files:
            for name, expected in manifest.files.items():
                _require_digest(directory / name, expected)
        return cls(directory, manifest, digest_of(data))

    @property
    def binding(self) -> ModelBinding:
        """What a bundle must say to be for this package."""
        return ModelBinding(
            self.manifest.model_id, self.manifest_digest, self.manifest.bundle_inputs
        )

    @property
    def bundle_path(self) -> Path:
        """Where the bundle lies."""
        return self.directory / BUNDLE_FILE

    def read_bundle(self) -> BundleFile:
        """Read the bundle's bytes; nobody has verified them yet.

        Raises:
            PackageError: The file is missing, unreadable, a link, or too large.
        """
        path, most = self.bundle_path, BundleLimits().max_file_bytes
        with _opened(path, follow_links=False) as file:
            status = os.fstat(file.fileno())
            if status.st_size > most:
                raise _too_large(path, most)
            data = new_buffer(status.st_size)
            if file.readinto(data) != len(data) or file.read(1):
                raise PackageError(f"{path} changes while it is read: try again")
        return BundleFile(path, data, _identity(status))

    def dynamic_variant(self) -> Variant:
        """Return the graph that takes any number of classes and images, in float32."""
        return self.manifest.variants[0]

    def read_graph(self, variant: Variant) -> bytes:
        """Read a graph and verify these very bytes: what is loaded is what was checked.

        Raises:
            PackageError: The file is missing, unreadable or altered.
        """
        return self.read_file(variant.file)

    def read_file(self, name: str) -> bytes:
        """Read a file that the manifest lists, and verify the very bytes that are returned.

        Raises:
            PackageError: It is not listed, missing, unreadable or altered.
        """
        path = self.directory / name
        if name not in self.manifest.files:
            raise PackageError(f"{path} is not listed in {MANIFEST_FILE}: export the package again")
        data = _read(path, _MAX_GRAPH_BYTES)
        if digest_of(data) != self.manifest.files[name]:
            raise _altered(path)
        return data


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A package with a well-formed bundle that was issued for it; by whom is not asked.

    Attributes:
        files: Everything but the bundle.
        bundle: The classes in it.
        bundle_bytes: Size of the bundle's file, in bytes.
    """

    files: PackageFiles
    bundle: Bundle
    bundle_bytes: int

    @classmethod
    def open(cls, directory: str | Path, *, verify_files: bool = True) -> "ModelPackage":
        """Open a package and verify that its parts fit together.

        Args:
            directory: The package.
            verify_files: As for :meth:`PackageFiles.open`.

        Raises:
            PackageError: Something is missing, unreadable or altered.
            ManifestError: ``manifest.json`` breaks the format.
            BundleError: The bundle breaks the format, or belongs to another package.
        """
        files = PackageFiles.open(directory, verify_files=verify_files)
        file = files.read_bundle()
        try:
            bundle = Bundle.from_bytes(file.data, binding=files.binding)
        except BundleError as error:
            raise type(error)(f"{file.path}: {error}") from error
        return cls(files, bundle, len(file.data))

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.files.directory

    @property
    def manifest(self) -> Manifest:
        """What it says about its graph."""
        return self.files.manifest

    @property
    def manifest_digest(self) -> str:
        """``"sha256:…"`` of the bytes of ``manifest.json``."""
        return self.files.manifest_digest


def require_directory(directory: Path) -> None:
    """Require that there is a directory that might be a package.

    Raises:
        PackageError: There is none.
    """
    if os.path.isfile(directory):  # noqa: PTH113 (as isdir, below)
        raise PackageError(f"{directory} is no model package, but a file: name its directory")
    if not os.path.isdir(directory):  # noqa: PTH112 (Path.is_dir raises what isdir answers)
        raise PackageError(
            f"{directory} is no model package: there is no such directory; "
            "make one with pfm-edge export"
        )


def _require_digest(path: Path, expected: str) -> None:
    digest = hashlib.sha256()
    with _opened(path, follow_links=True) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if f"sha256:{digest.hexdigest()}" != expected:
        raise _altered(path)


def _altered(path: Path) -> PackageError:
    return PackageError(f"{path} is not the file that {MANIFEST_FILE} lists: {_COPY_AGAIN}")


def _read(path: Path, most: int) -> bytes:
    with _opened(path, follow_links=True) as file:
        # One byte more than allowed tells, even if the file grows meanwhile.
        small = os.fstat(file.fileno()).st_size <= most
        data = file.read(most + 1) if small else None
    if data is None or len(data) > most:
        raise _too_large(path, most)
    return data


def _too_large(path: Path, most: int) -> PackageError:
    return PackageError(f"{path} is larger than {most} bytes: {_COPY_AGAIN}")


@contextmanager
def _opened(path: Path, *, follow_links: bool) -> Iterator[BufferedReader]:
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


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Device, number, time and size: a number alone is given to a new file again."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
