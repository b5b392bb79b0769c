"""What people put into an artefact, and beside it: a forget stops at what it cannot judge.

Owns which of it may stay. Configuration in text may; a link, a file of unknown contents and a copy
of what held the class stop the forget, which says which one, until a person has removed it::

    require_known(Path("repository/digits"), record)
    require_no_copy(Path("repository/digits"), record, gone, noted=registry_paths)
"""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from pfm_edge_runtime.artefacts import (
    CONFIGURATION,
    RECORD_FILE,
    TargetRecord,
    is_artefact,
    is_version,
)
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import PackageError

__all__ = ["require_known", "require_no_copy"]

_TEMPORARY = ".tmp"
_DEPTH = 2  # where Triton has models: REPOSITORY/MODEL/VERSION/FILE


def require_known(directory: Path, record: TargetRecord) -> None:
    """Refuse what may hold a class, and that no export wrote; versions of a model go anyway.

    Raises:
        PackageError: There is a link, or such a file.
    """
    for folder, folders, names in os.walk(directory):
        for path in (Path(folder, name) for name in sorted([*folders, *names])):
            name = path.relative_to(directory).as_posix()
            if path.is_symlink():
                raise PackageError(
                    f"{path} is a symbolic link: put what it points to there, or remove it"
                )
            if (
                path.is_dir()
                or is_version(name.partition("/")[0])
                or name in record.files
                or name == RECORD_FILE
                or path.suffix == CONFIGURATION
            ):
                continue
            raise PackageError(
                f"{path} was not written by an export, and nobody knows which classes are in it: "
                "move it elsewhere, or remove it"
            )


def require_no_copy(
    directory: Path,
    record: TargetRecord,
    gone: Collection[ClassId],
    *,
    class_files: Collection[str],
    noted: Collection[Path] = (),
) -> None:
    """Refuse a copy in the same repository, which would keep the classes.

    Args:
        directory: The artefact; what lies beside it is looked at.
        record: Its record.
        gone: Classes.
        class_files: Which of its files hold classes.
        noted: Artefacts that the forget takes the classes out of, too.

    Raises:
        PackageError: There is one.
    """
    others = {os.path.realpath(each) for each in (directory, *noted)}
    wanted = {_size(directory / name): record.files[name] for name in class_files}
    for path in _beside(directory.parent, others, _DEPTH):
        if path.is_dir():
            if is_artefact(path) and _holds(path, record, gone):
                raise PackageError(
                    f"{path} holds the same classes as {directory}, and no registry knows of it: "
                    "remove it"
                )
        elif _size(path) in wanted.keys() - {None} and _digest(path) in wanted.values():
            raise PackageError(f"{path} is a copy of a file of {directory}: remove it")


def _beside(folder: Path, others: Collection[str], depth: int) -> Iterator[Path]:
    """Yield what is in a folder, and in the folders in it, but for artefacts that are dealt with.

    What this process may not read, or is gone by now, is nobody's repository.
    """
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path.name.endswith(_TEMPORARY) or os.path.realpath(path) in others:
                continue
            if path.is_dir():
                yield path
                if depth:
                    yield from _beside(path, others, depth - 1)
            elif path.is_file():
                yield path


def _holds(path: Path, record: TargetRecord, gone: Collection[ClassId]) -> bool:
    other = TargetRecord.read(path)
    return other.model_id == record.model_id and any(each in gone for each in other.classes)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(path: Path) -> str:
    try:
        return digest_of(path.read_bytes())
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror or error}") from error
