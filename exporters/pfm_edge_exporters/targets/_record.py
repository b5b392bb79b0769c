"""``target.json``: how an artefact was made, beside the artefact.

Owns that file. It names inputs by digest, and holds no time, so that equal inputs, libraries and
options give equal bytes. An artefact that holds class tensors lists whose, row by row: by that a
forget finds them::

    record = TargetRecord.read(Path("repository/digits"))
    record.classes                  # ("5f0c6e3e9d6c4b7f8a1b2c3d4e5f6071", …)
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pfm_edge_runtime.bundle import ClassId, is_class_id
from pfm_edge_runtime.digest import is_digest
from pfm_edge_runtime.errors import PackageError
from pfm_edge_runtime.manifest import ModelId

__all__ = ["RECORD_FILE", "TargetRecord", "artefacts_in", "is_artefact"]

RECORD_FILE = "target.json"
_FORMAT = "pfm-target/1"
_MAX_BYTES = 1 << 24  # a hundred thousand class ids are 4 MB
_NAME = re.compile(r"(?:[1-9][0-9]{0,18}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
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
                f"{path} is damaged, so nobody knows which classes are beside it: remove "
                f"{directory}, and export it again"
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
    """Return the artefacts in a directory, a model package's engines above all, in order."""
    return [Path(found) for found, _, files in sorted(os.walk(directory)) if RECORD_FILE in files]


def _texts(found: Any) -> dict[str, str]:
    if not all(isinstance(value, str) for value in found.values()):
        raise TypeError("no text")
    return {str(name): value for name, value in found.items()}
