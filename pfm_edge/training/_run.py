"""A run directory: all that one training leaves behind.

    config.yaml              the configuration, resolved
    classes.json             the registry: class ids and labels, what was forgotten, what exported
    backbone.safetensors     the frozen backbone of a LoRA run (copied once)
    checkpoint.safetensors   the newest checkpoint
    best.safetensors         the selected model, where training.select is best
    metrics.jsonl            one JSON object a line; classes by id, never by label
    tensorboard/             the same figures for TensorBoard
    lock                     held by whoever works on the run

A class id is drawn once, from the operating system, and outlives retraining and export. Runs that
share a registry (`registry` in the configuration) share its ids and its forget list; each keeps
the rows of its own classes, too.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from pfm_edge.config import Config, load_config
from pfm_edge.errors import RegistryError, RunError
from pfm_edge.registry import (
    MARK_SUFFIX,
    KnownClass,
    Registry,
    change_registry,
    read_registry,
)
from pfm_edge.training._lock import LOCK_FILE, alone
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.store import write_atomic

__all__ = ["ClassRecord", "Run"]

_CLASSES = "classes.json"
_FREE_TO_CHANGE = (("training", "max_steps"), ("training", "device"), ("data", "workers"))


@dataclass(frozen=True, slots=True)
class ClassRecord:
    """One class of a run: its place in the model, its identity, its name."""

    index: int
    class_id: ClassId
    label: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that exists and is readable.

    Attributes:
        path: Where it lies.
        config: What it was made from.
        classes: The classes in its model, by index; forgotten ones are not among them.
        began_with: How many classes its training began with.
    """

    path: Path
    config: Config
    classes: tuple[ClassRecord, ...]
    began_with: int = 0

    @classmethod
    def create(
        cls, path: Path, config: Config, labels: Sequence[str], *, overwrite: bool = False
    ) -> "Run":
        """Start a run in an empty or new directory, or anew in an old one.

        A label keeps the id that the registry has for it; that of an old run stays when the run
        is replaced, with its forget list.

        Raises:
            RunError: the directory is not empty and `overwrite` is not set, it is no run, a
                forget in it is not finished, or another process works on it.
            RegistryError: a registry is damaged, or two of them contradict each other.
            StorageError: the disk refused.
        """
        _require_free(path, overwrite=overwrite)
        config = _resolved(path, config)
        shared = _shared(config.registry, labels) if config.registry else None
        _make_directory(path)
        with alone(path):
            _require_free(path, overwrite=overwrite)
            own = _with_training(path, labels, shared)
            _clear(path)
            change_registry(path / _CLASSES, lambda _: own, create=True)
            # From here it is a run.
            write_atomic(path / "config.yaml", config.to_yaml().encode())
        return cls(path, config, _records(own), began_with=len(own.model))

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a run.

        Raises:
            RunError: no such run, or its files are damaged.
            ConfigError: its configuration is not one of this version.
        """
        if not (path / "config.yaml").is_file():
            raise RunError(
                f"{path}: no run here (config.yaml is missing); pfm-edge train makes one"
            )
        config = load_config(path / "config.yaml", ())
        own = read_registry(path / _CLASSES)
        return cls(path, config, _records(own), len(own.model))

    @classmethod
    def resume(cls, path: Path, config: Config, labels: Sequence[str]) -> "Run":
        """Open a run to continue it with the configuration that it was started with.

        The data may still have a class that the run has forgotten: it is trained on without it
        (`ClassificationData.only`).

        Raises:
            RunError: the configuration or the classes of the data have changed.
        """
        run = cls.open(path)
        config = _resolved(path, config)
        changed = _first_difference(_comparable(run.config), _comparable(config))
        if changed:
            raise RunError(f"{path}: {changed} differs from the run's; resume needs the same")
        left_out = [label for label in labels if label not in run.labels]
        others = [label for label in labels if label in run.labels]
        if tuple(others) != run.labels or len(left_out) > run.forgotten:
            raise RunError(
                f"{path}: the data's classes differ from the run's; resume needs the same"
                + (f", with or without the {run.forgotten} forgotten" if run.forgotten else "")
            )
        return cls(path, config, run.classes, run.began_with)

    def require_current(self, *, least: int = 1) -> None:
        """Require that no class of the run is on a forget list; call it while `in_use`.

        Args:
            least: how many classes must be left.

        Raises:
            RunError: a forget is not finished, or came since the run was opened; another run's
                forget reached the registry that they share; or too few classes are left.
            RegistryError: the registry is missing, damaged, or older than the run.
        """
        own = read_registry(self.own_registry)
        if own.unfinished or _records(own) != self.classes:
            raise RunError(
                f"{self.path}: a forget is not finished; pfm-edge forget {self.path} finishes it"
            )
        if len(self.classes) < least:
            raise RunError(
                f"{self.path}: {len(self.classes)} of its classes are left, that takes {least}; "
                "train a new run"
            )
        if self.config.registry is None:
            return
        shared = read_registry(self.config.registry)
        for record in self.classes:
            if record.class_id in shared.forgotten:
                raise RunError(
                    f"{self.path}: holds a class that {self.config.registry} lists as forgotten; "
                    f"pfm-edge forget {self.path} erases it"
                )
            if not shared.knows(record.class_id):
                raise RegistryError(
                    f"{self.config.registry}: does not know class {record.class_id} of {self.path};"
                    " it is older than the run, or another's: put the newest back"
                )

    @property
    def forgotten(self) -> int:
        """How many of the classes that training began with were forgotten since."""
        return max(0, self.began_with - len(self.classes))

    @property
    def own_registry(self) -> Path:
        """The registry of the run alone."""
        return self.path / _CLASSES

    @property
    def registry(self) -> Path:
        """The registry that exports are noted in: the shared one, or the run's own."""
        return self.config.registry or self.own_registry

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The model that training selected; exists where `training.select` is `best`."""
        return self.path / "best.safetensors"

    @property
    def selected(self) -> Path:
        """What is evaluated and exported: the best model, or the newest checkpoint."""
        wants_best = self.config.training.select == "best"
        return self.best if wants_best and self.best.exists() else self.checkpoint

    @property
    def frozen_backbone(self) -> Path:
        """The backbone that a LoRA run was started from."""
        return self.path / "backbone.safetensors"

    @property
    def metrics(self) -> Path:
        """The metrics log, JSON lines."""
        return self.path / "metrics.jsonl"

    @property
    def class_ids(self) -> tuple[ClassId, ...]:
        """The class ids, in the order of the model's class indices."""
        return tuple(record.class_id for record in self.classes)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the model's class indices."""
        return tuple(record.label for record in self.classes)


def _records(own: Registry) -> tuple[ClassRecord, ...]:
    labels = {each.class_id: each.label for each in own.classes}
    present = [class_id for class_id in own.model if class_id in labels]
    return tuple(
        ClassRecord(index, class_id, labels[class_id]) for index, class_id in enumerate(present)
    )


def _shared(path: Path, labels: Sequence[str]) -> Registry:
    """Return the shared registry once it has an id for each of these labels."""
    return change_registry(path, lambda known: known.with_labels(labels), create=True)


def _with_training(path: Path, labels: Sequence[str], shared: Registry | None) -> Registry:
    """Return the run's own registry for a training with these labels; write nothing."""
    file = path / _CLASSES
    before = read_registry(file) if file.exists() else Registry()
    gone = shared.forgotten if shared else ()
    if before.unfinished or any(each.class_id in gone for each in _records(before)):
        raise RunError(f"{path}: a forget is not finished; pfm-edge forget {path} finishes it")
    known = before.without([each.class_id for each in before.classes if each.class_id in gone])
    try:
        known = known.with_classes(_of_labels(shared, labels)) if shared else known
    except RegistryError as error:
        raise RegistryError(
            f"{file}: contradicts the shared registry ({error}); train into another directory"
        ) from error
    known = known.with_labels(labels)
    return known.with_model([each.class_id for each in _of_labels(known, labels)])


def _of_labels(registry: Registry, labels: Sequence[str]) -> list[KnownClass]:
    """Return the classes of these labels, in their order."""
    by_label = {each.label: each for each in registry.classes}
    return [by_label[normalize("NFC", label)] for label in labels]


def _require_free(path: Path, *, overwrite: bool) -> None:
    if not path.exists():
        return
    if path.is_dir() and all(each.name == LOCK_FILE for each in path.iterdir()):
        return
    if not overwrite:
        raise RunError(f"{path}: not empty; --resume continues it, --overwrite replaces it")
    if not (path / _CLASSES).is_file():
        raise RunError(f"{path}: not a run, so it is not replaced; name another directory")


def _clear(path: Path) -> None:
    """Remove what an old run left but its registry, the configuration first: it is no run then."""
    try:
        (path / "config.yaml").unlink(missing_ok=True)
        for each in path.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each.name not in {_CLASSES, LOCK_FILE} and each.suffix != MARK_SUFFIX:
                each.unlink()
    except OSError as error:
        raise RunError(f"{path}: cannot be removed ({error.strerror}); remove it") from error


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be made ({error.strerror}); name another directory"
        ) from error


def _resolved(path: Path, config: Config) -> Config:
    """Let the registry not depend on the current directory; the run's own needs no mention."""
    shared = config.registry.resolve() if config.registry is not None else None
    if shared == (path / _CLASSES).resolve():
        shared = None
    return config.model_copy(update={"registry": shared})


def _comparable(config: Config) -> dict[str, Any]:
    document: dict[str, Any] = config.model_dump(mode="json")
    for section, key in _FREE_TO_CHANGE:
        document[section].pop(key, None)
    return document


def _first_difference(left: Any, right: Any, where: str = "") -> str:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(set(left) | set(right)):
            found = _first_difference(left.get(key), right.get(key), f"{where}.{key}".lstrip("."))
            if found:
                return found
        return ""
    return "" if left == right else where
