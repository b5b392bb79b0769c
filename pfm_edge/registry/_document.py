"""What a registry holds, and its JSON.

Owns the format `pfm-classes/2` and the rules that a registry keeps: an id stands for one class for
ever, a label for one id at a time, and a forgotten id never gets a label again::

    registry = Registry().with_labels(["daisy"])
    Registry.from_bytes(registry.to_bytes()) == registry

Files of the format before (`pfm-classes/1`, a run's classes alone) are read, and written anew at
the first change.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal
from unicodedata import normalize

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pfm_edge.errors import RegistryError
from pfm_edge_runtime.bundle import ClassId, new_class_id
from pfm_edge_runtime.manifest import ModelId

__all__ = ["KnownClass", "PackageRecord", "Registry"]

_FORMAT = "pfm-classes/2"
_NO_PLACE = (1, 0)


@dataclass(frozen=True, slots=True)
class KnownClass:
    """A class: its identity and its name, in normal form C."""

    class_id: ClassId
    label: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PackageRecord:
    """What was exported and holds classes: where to (an absolute path), and the model in it.

    A model package, or an artefact that was made of one.
    """

    path: Path
    model_id: ModelId


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that keeps its rules; immutable, each method returns another.

    Attributes:
        classes: The classes that have a label.
        forgotten: Ids that were forgotten, in that order.
        packages: The packages exported, by which a forget reaches them.
        places: (epoch, sequence) of the last export, by model; the pair only grows.
        model: In a run: the classes that its training began with, by index; forgotten ones too.
        erased: In a run: those of `model` whose forgetting is complete.
    """

    classes: tuple[KnownClass, ...] = ()
    forgotten: tuple[ClassId, ...] = ()
    packages: tuple[PackageRecord, ...] = ()
    places: Mapping[ModelId, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    model: tuple[ClassId, ...] = ()
    erased: tuple[ClassId, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Registry":
        """Read a registry.

        Raises:
            RegistryError: It is none, or breaks a rule; the message never repeats a label.
        """
        _require_single_keys(data)
        try:
            document = _Document.model_validate_json(data)
        except ValidationError as error:
            return cls._from_before(data, error)
        registry = cls(
            classes=tuple(KnownClass(ClassId(c.class_id), c.label) for c in document.classes),
            forgotten=tuple(map(ClassId, document.forgotten)),
            packages=tuple(
                PackageRecord(Path(p.path), ModelId(p.model_id)) for p in document.packages
            ),
            places=MappingProxyType(
                {ModelId(m): (p.epoch, p.sequence) for m, p in document.places.items()}
            ),
            model=tuple(map(ClassId, document.model)),
            erased=tuple(map(ClassId, document.erased)),
        )
        registry._check()
        return registry

    @classmethod
    def _from_before(cls, data: bytes, newer: ValidationError) -> "Registry":
        """Read what version 1 wrote; ``newer`` says why it is not version 2."""
        try:
            document = _DocumentBefore.model_validate_json(data)
        except ValidationError:
            raise RegistryError(_reason(newer)) from newer
        if [row.index for row in document.classes] != list(range(len(document.classes))):
            raise RegistryError("classes: out of order")
        classes = tuple(KnownClass(ClassId(c.class_id), c.label) for c in document.classes)
        registry = cls(classes=classes, model=tuple(c.class_id for c in classes))
        registry._check()
        return registry

    def to_bytes(self) -> bytes:
        """Write it; equal registries give equal bytes."""
        document = {
            "format": _FORMAT,
            "classes": [{"class_id": c.class_id, "label": c.label} for c in self.classes],
            "forgotten": list(self.forgotten),
            "packages": [{"path": str(p.path), "model_id": p.model_id} for p in self.packages],
            "places": {
                model: {"epoch": place[0], "sequence": place[1]}
                for model, place in sorted(self.places.items())
            },
            "model": list(self.model),
            "erased": list(self.erased),
        }
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    def id_of(self, label: str) -> ClassId | None:
        """Return the id of the class that has this label, in any normal form."""
        wanted = normalize("NFC", label)
        return next((each.class_id for each in self.classes if each.label == wanted), None)

    def knows(self, class_id: ClassId) -> bool:
        """Tell whether the id is that of a class, or was."""
        return class_id in self.forgotten or any(c.class_id == class_id for c in self.classes)

    def find(self, name: str) -> set[ClassId]:
        """Return the classes of that id (forgotten ones, too) or label: none, one, or two."""
        id_, label = ClassId(name), self.id_of(name)
        return {each for each in (id_, label) if each is not None and self.knows(each)}

    @property
    def unfinished(self) -> tuple[ClassId, ...]:
        """The classes of the model that were forgotten and may not be erased everywhere yet."""
        gone = set(self.forgotten) - set(self.erased)
        return tuple(each for each in self.model if each in gone)

    def with_labels(self, labels: Iterable[str]) -> "Registry":
        """Know these labels, too: the new ones get an id, the others keep theirs."""
        wanted = dict.fromkeys(normalize("NFC", each) for each in labels)
        known = {each.label for each in self.classes}
        new = [KnownClass(new_class_id(), each) for each in wanted if each not in known]
        return replace(self, classes=(*self.classes, *new))

    def with_classes(self, classes: Iterable[KnownClass]) -> "Registry":
        """Know these classes, too, by the ids that they have.

        Raises:
            RegistryError: One of them has another id here, or was forgotten.
        """
        new = [each for each in classes if each not in self.classes]
        registry = replace(self, classes=(*self.classes, *new))
        registry._check()
        return registry

    def with_model(self, model: Sequence[ClassId]) -> "Registry":
        """Let a training begin with these classes."""
        return replace(self, model=tuple(model), erased=())

    def without(self, class_ids: Collection[ClassId]) -> "Registry":
        """Forget classes: their labels go, their ids stay on the list."""
        new = [each for each in dict.fromkeys(class_ids) if each not in self.forgotten]
        kept = tuple(each for each in self.classes if each.class_id not in new)
        return replace(self, classes=kept, forgotten=(*self.forgotten, *new))

    def with_erased(self, class_ids: Collection[ClassId]) -> "Registry":
        """Note that these classes of the model are erased everywhere."""
        kept = [each for each in self.model if each in class_ids and each not in self.erased]
        return replace(self, erased=(*self.erased, *kept))

    def with_artefact(self, artefact: PackageRecord) -> "Registry":
        """Note what was made of a package and holds its classes, so that a forget reaches it."""
        others = (each for each in self.packages if each.path != artefact.path)
        return replace(self, packages=(*others, artefact))

    def without_artefact(self, path: Path) -> "Registry":
        """Take back the note of a package, or of an artefact, that never came to be."""
        return replace(self, packages=tuple(each for each in self.packages if each.path != path))

    def with_export(self, package: PackageRecord) -> tuple["Registry", tuple[int, int]]:
        """Note an export, and take the next (epoch, sequence) of its model."""
        epoch, sequence = self.places.get(package.model_id, _NO_PLACE)
        place = (epoch, sequence + 1)
        places = MappingProxyType({**self.places, package.model_id: place})
        return replace(self.with_artefact(package), places=places), place

    def _check(self) -> None:
        """Hold the rules.

        Raises:
            RegistryError: One is broken.
        """
        ids = [*(each.class_id for each in self.classes), *self.forgotten]
        for class_id, count in Counter(ids).items():
            if count > 1:
                raise RegistryError(f"class {class_id} is there twice, or forgotten and labelled")
        if len({each.label for each in self.classes}) != len(self.classes):
            raise RegistryError("two classes have one label")
        if len(set(self.model)) != len(self.model) or not set(self.model) <= set(ids):
            raise RegistryError("model: names a class twice, or one that is not known")
        if not set(self.erased) <= set(self.forgotten) & set(self.model):
            raise RegistryError("erased: names a class that was not forgotten")
        if any(each.label != normalize("NFC", each.label) for each in self.classes):
            raise RegistryError("a label is not in normal form C")
        if not all(each.path.is_absolute() for each in self.packages):
            raise RegistryError("packages: a path is not absolute")


_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_ModelDigest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Label = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Class(_Strict):
    class_id: _Id
    label: _Label


class _ClassBefore(_Class):
    index: int


class _Package(_Strict):
    path: str
    model_id: _ModelDigest


class _Place(_Strict):
    epoch: Annotated[int, Field(ge=1)]
    sequence: Annotated[int, Field(ge=1)]


class _Document(_Strict):
    format: Literal["pfm-classes/2"]
    classes: list[_Class]
    forgotten: list[_Id]
    packages: list[_Package]
    places: dict[_ModelDigest, _Place]
    model: list[_Id]
    erased: list[_Id]


class _DocumentBefore(_Strict):
    format: Literal["pfm-classes/1"]
    classes: list[_ClassBefore]


def _require_single_keys(data: bytes) -> None:
    """Refuse a key that is there twice: the second ``forgotten`` would take the first one back.

    Raises:
        RegistryError: there is one.
    """

    def single(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise RegistryError("a key is there twice")
        return found

    with suppress(ValueError, RecursionError):  # it is no JSON: the next reader says why
        json.loads(data, object_pairs_hook=single)


def _reason(error: ValidationError) -> str:
    """Say what the first thing wrong is, and where; never the value, which may be a label."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return "it is no JSON"
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
