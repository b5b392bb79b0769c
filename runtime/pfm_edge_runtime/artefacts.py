"""What was made of a model package, as an engine: ``target.json`` beside it says how, by digest.

Owns that file, and whether an artefact is still what it says. It names inputs by digest, and holds
no time, so that equal inputs, libraries and options give equal bytes. An artefact that holds class
tensors lists whose, row by row: by that a forget finds them::

    record = TargetRecord.read(Path("repository/digits"))
    record.classes                  # ("5f0c6e3e9d6c4b7f8a1b2c3d4e5f6071", …)
    verify_artefact(Path("model/tensorrt-rtx/backbone"), package=PackageFiles.open("model"))

Making artefacts belongs to the exporters. Nothing here runs one.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pfm_edge_runtime._disk import is_temporary
from pfm_edge_runtime._phrases import first_of
from pfm_edge_runtime.bundle import ClassId, is_class_id
from pfm_edge_runtime.digest import file_digest, is_digest
from pfm_edge_runtime.errors import PackageError
from pfm_edge_runtime.manifest import BUNDLE_FILE, MANIFEST_FILE, ModelId
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.store import foreign_files

__all__ = [
    "CONFIGURATION",
    "RECORD_FILE",
    "TargetRecord",
    "VerifiedArtefact",
    "artefacts_in",
    "is_artefact",
    "is_version",
    "lost_engines",
    "unlisted_files",
    "verify_artefact",
]

RECORD_FILE = "target.json"
CONFIGURATION = ".pbtxt"
"""What a person may change in an artefact: how a server runs it, and nothing of the model."""

_FORMAT = "pfm-target/1"
_MAX_BYTES = 1 << 24  # a hundred thousand class ids are 4 MB
_TARGET = re.compile(r"[a-z][a-z0-9-]{0,63}")
_NAME = re.compile(r"(?:[1-9][0-9]{0,18}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ENGINE = re.compile(r"tensorrt[^/]*/[^/]+/[^/]+\.plan")
_MAX_AXIS = 8


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """What ``target.json`` says.

    Attributes:
        target: Name of the target.
        model_id: The trained model.
        inputs: Digest of everything that it was made from, by name.
        made_with: Version of everything that made it, by name.
        options: The target's options, as given.
        classes: Whose rows the class tensors in it hold, in order; empty where there are none.
        class_axes: Where the class axis of each of those tensors is, by name.
        files: Digest of every other file of the artefact, by its path in it.
    """

    target: str
    model_id: ModelId
    inputs: Mapping[str, str]
    made_with: Mapping[str, str]
    options: Mapping[str, str]
    classes: tuple[ClassId, ...] = ()
    class_axes: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> "TargetRecord":
        """Read the record of an artefact.

        Raises:
            PackageError: It is missing, unreadable or damaged.
        """
        path = directory / RECORD_FILE
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES)  # the rest of a longer one is missed: it is no JSON
            return cls._parse(json.loads(data))
        except OSError as error:
            raise PackageError(f"{path} cannot be read: {error.strerror or error}") from error
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise PackageError(
                f"{path} is damaged, so nobody knows what is beside it: remove {directory}, and "
                "export it again"
            ) from error

    @classmethod
    def _parse(cls, found: Any) -> "TargetRecord":
        if found["format"] != _FORMAT or not is_digest(found["model_id"]):
            raise ValueError("another format")
        record = cls(
            target=str(found["target"]),
            model_id=ModelId(found["model_id"]),
            inputs=_texts(found["inputs"]),
            made_with=_texts(found["made_with"]),
            options=_texts(found["options"]),
            classes=tuple(map(ClassId, found["classes"])),
            class_axes={str(name): int(axis) for name, axis in found["class_axes"].items()},
            files=_texts(found["files"]),
        )
        if _TARGET.fullmatch(record.target) is None:
            raise ValueError("no target")
        if len(set(record.classes)) != len(record.classes):
            raise ValueError("a class is there twice")
        if not all(map(is_class_id, record.classes)):
            raise ValueError("a class id is none")
        if not all(0 <= axis < _MAX_AXIS for axis in record.class_axes.values()):
            raise ValueError("no axis")
        if not all(_NAME.fullmatch(name) for name in record.files):
            raise ValueError("no file of the artefact")
        return record

    def to_bytes(self) -> bytes:
        """Write it; equal records give equal bytes."""
        document = {
            "format": _FORMAT,
            "target": self.target,
            "model_id": self.model_id,
            "inputs": dict(sorted(self.inputs.items())),
            "made_with": dict(sorted(self.made_with.items())),
            "options": dict(self.options),
            "classes": list(self.classes),
            "class_axes": dict(self.class_axes),
            "files": dict(sorted(self.files.items())),
        }
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    def without(self, gone: Collection[ClassId]) -> "TargetRecord":
        """Return the record of the artefact without these classes; its files are not known yet."""
        kept = tuple(each for each in self.classes if each not in gone)
        return replace(self, classes=kept, files={})

    def rows_of(self, gone: Collection[ClassId]) -> list[int]:
        """Return which rows belong to these classes."""
        return [row for row, each in enumerate(self.classes) if each in gone]


def is_artefact(directory: Path) -> bool:
    """Tell whether a directory holds an artefact of a target, rather than a model package."""
    return os.path.lexists(directory / RECORD_FILE)


def artefacts_in(directory: Path) -> list[Path]:
    """Return the artefacts in a directory, a model package's engines above all, in order.

    What a killed process left half made is none.
    """
    found: list[Path] = []
    for folder, folders, files in os.walk(directory):
        folders[:] = [each for each in folders if not is_temporary(each)]
        if RECORD_FILE in files:
            found.append(Path(folder))
    return sorted(found)


def is_version(name: str) -> bool:
    """Tell whether a directory of that name is a version of a Triton model."""
    return name.isdigit()


def unlisted_files(package: PackageFiles) -> list[Path]:
    """Return the files in a package that its manifest does not list, and no artefact is around.

    Raises:
        StorageError: Nobody can look into a directory of it.
    """
    known = {MANIFEST_FILE, BUNDLE_FILE, *package.manifest.files}
    made = set(artefacts_in(package.directory))
    found = foreign_files(package.directory, known)
    return [path for path in found if made.isdisjoint(path.parents)]


def lost_engines(package: PackageFiles, unlisted: Collection[Path]) -> list[str]:
    """Say, of each engine among these files, that it lost its record, and what makes it again."""
    found = []
    for path in unlisted:
        target, *_ = folders = path.relative_to(package.directory).parts
        if _ENGINE.fullmatch("/".join(folders)):
            command = _command(path.parent, target, f"{folders[1]}.onnx", package)
            found.append(
                f"{path} has no {RECORD_FILE} beside it, so nobody knows what it was made of: "
                f"remove {path.parent}, and {command} makes it again"
            )
    return found


@dataclass(frozen=True, slots=True)
class VerifiedArtefact:
    """An artefact whose files are those that were made, as far as digests tell.

    Attributes:
        directory: Where it lies.
        record: What it says of itself.
        edited: Files of configuration that a person has changed since.
        unlisted: Files beside them that no export wrote.
    """

    directory: Path
    record: TargetRecord
    edited: tuple[str, ...]
    unlisted: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Return it as values that JSON has."""
        return {
            "path": str(self.directory),
            "target": self.record.target,
            "files": len(self.record.files),
            "edited": list(self.edited),
            "unlisted": list(self.unlisted),
        }

    def summary(self) -> str:
        """Return what was verified, and what was not, in a line."""
        count = len(self.record.files)
        edited = f"; changed by hand: {', '.join(self.edited)}" if self.edited else ""
        foreign = f"; not of the export: {first_of(self.unlisted)}" if self.unlisted else ""
        beyond = (
            "nothing else was verified" if self.record.class_axes else "not run: no backend here"
        )
        return (
            f"{self.record.target}: {count} file{'s'[: count != 1]}, digests as {RECORD_FILE} has "
            f"them{edited}{foreign}; {beyond}"
        )


def verify_artefact(
    directory: Path,
    *,
    package: PackageFiles | None = None,
    report: Callable[[int], None] = lambda _: None,
) -> VerifiedArtefact:
    """Compare the files of an artefact with its record, and the record with a package.

    Args:
        directory: The artefact.
        package: What it must have been made of, where it lies in one.
        report: Is told how many bytes more were read.

    Raises:
        PackageError: A file is missing, unreadable or altered; there is a version of the model that
            nobody made; or the package is another by now.
        StorageError: Nobody can look into a directory of it.
    """
    record = TargetRecord.read(directory)
    again = _again(directory, record, package)
    if not record.files and not record.class_axes:
        raise PackageError(f"{directory / RECORD_FILE} lists no file: {again}")
    if package is not None:
        _require_made_of(record, directory, package, again)
    edited = tuple(_changed(directory, record, again, report))
    return VerifiedArtefact(directory, record, edited, tuple(_unlisted(directory, record)))


def _unlisted(directory: Path, record: TargetRecord) -> Iterator[str]:
    """Yield the files of an artefact that its record does not list.

    Raises:
        PackageError: There is a version of the model that it does not list.
        StorageError: Nobody can look into a directory of it.
    """
    found = foreign_files(directory, {RECORD_FILE, *record.files})
    versions = {name.partition("/")[0] for name in record.files}
    for each in sorted(directory.iterdir()):
        if is_version(each.name) and each.is_dir() and each.name not in versions:
            raise PackageError(
                f"{each} is no version that {RECORD_FILE} lists, and a server may serve it: "
                "remove it"
            )
    for path in found:
        yield path.relative_to(directory).as_posix()


def _require_made_of(
    record: TargetRecord, directory: Path, package: PackageFiles, again: str
) -> None:
    there = {**package.manifest.files, MANIFEST_FILE: package.manifest_digest}
    for name, digest in record.inputs.items():
        if name in there and there[name] != digest:
            raise PackageError(f"{directory} was made of another {name} than is there: {again}")
    if MANIFEST_FILE not in record.inputs:
        raise PackageError(f"{directory} was not made of {package.directory}: {again}")


def _changed(
    directory: Path, record: TargetRecord, again: str, report: Callable[[int], None]
) -> Iterator[str]:
    """Yield the configuration that differs from the record; whatever else may not.

    Raises:
        PackageError: It does.
    """
    for name, digest in record.files.items():
        path = directory / name
        try:
            found = file_digest(path, report)
        except OSError as error:
            raise PackageError(
                f"{path} cannot be read: {error.strerror or error}; {again}"
            ) from error
        if found == digest:
            continue
        if path.suffix != CONFIGURATION:
            raise PackageError(f"{path} is not the file that {RECORD_FILE} lists: {again}")
        yield name


def _again(directory: Path, record: TargetRecord, package: PackageFiles | None) -> str:
    if package is None:
        return "export it again from its package, with --overwrite"
    command = _command(directory, record.target, record.options.get("variant"), package)
    return f"{command} --overwrite makes it again"


def _command(directory: Path, target: str, variant: str | None, package: PackageFiles) -> str:
    option = f" -O variant={variant}" if variant in package.manifest.files else ""
    return f"pfm-edge export {package.directory} --target {target} --out {directory}{option}"


def _texts(found: Any) -> dict[str, str]:
    if not all(isinstance(value, str) for value in found.values()):
        raise TypeError("no text")
    return {str(name): value for name, value in found.items()}
