"""A run directory: all that one training leaves behind.

    config.yaml              the configuration, resolved
    classes.json             the registry: index, class id, label
    backbone.safetensors     the frozen backbone of a LoRA run (copied once)
    checkpoint.safetensors   the newest checkpoint
    best.safetensors         the selected model, where training.select is best
    metrics.jsonl            one JSON object a line; classes by id, never by label
    tensorboard/             the same figures for TensorBoard

A class id is drawn once, from the operating system, and outlives retraining and export.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm_edge.config import Config, load_config
from pfm_edge.errors import RunError
from pfm_edge_runtime.bundle import ClassId, new_class_id
from pfm_edge_runtime.store import write_atomic

__all__ = ["ClassRecord", "Run"]

_CLASSES_FORMAT = "pfm-classes/1"
_FREE_TO_CHANGE = (("training", "max_steps"), ("training", "device"), ("data", "workers"))


@dataclass(frozen=True, slots=True)
class ClassRecord:
    """One class of a run: its place in the model, its identity, its name."""

    index: int
    class_id: ClassId
    label: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that exists and is readable."""

    path: Path
    config: Config
    classes: tuple[ClassRecord, ...]

    @classmethod
    def create(
        cls, path: Path, config: Config, labels: Sequence[str], *, overwrite: bool = False
    ) -> "Run":
        """Start a run in an empty or new directory.

        Raises:
            RunError: the directory is not empty and `overwrite` is not set, or it is no run.
            StorageError: the disk refused.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not overwrite:
                raise RunError(f"{path}: not empty; --resume continues it, --overwrite replaces it")
            if not (path / "classes.json").is_file():
                raise RunError(f"{path}: not a run, so it is not replaced; name another directory")
            _remove(path)
        classes = tuple(
            ClassRecord(index, new_class_id(), label) for index, label in enumerate(labels)
        )
        run = cls(path=path, config=config, classes=classes)
        _make_directory(path)
        write_atomic(run.path / "classes.json", _classes_json(classes))
        write_atomic(run.path / "config.yaml", config.to_yaml().encode())  # from here it is a run
        return run

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
        return cls(path=path, config=config, classes=_read_classes(path / "classes.json"))

    @classmethod
    def resume(cls, path: Path, config: Config, labels: Sequence[str]) -> "Run":
        """Open a run to continue it with the configuration that it was started with.

        Raises:
            RunError: the configuration or the classes of the data have changed.
        """
        run = cls.open(path)
        changed = _first_difference(_comparable(run.config), _comparable(config))
        if changed:
            raise RunError(f"{path}: {changed} differs from the run's; resume needs the same")
        if tuple(labels) != tuple(record.label for record in run.classes):
            raise RunError(
                f"{path}: the data's classes differ from the run's; resume needs the same"
            )
        return cls(path=path, config=config, classes=run.classes)

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
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the model's class indices."""
        return tuple(record.label for record in self.classes)


def _classes_json(classes: Sequence[ClassRecord]) -> bytes:
    rows = [{"index": c.index, "class_id": c.class_id, "label": c.label} for c in classes]
    document = {"format": _CLASSES_FORMAT, "classes": rows}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _read_classes(path: Path) -> tuple[ClassRecord, ...]:
    try:
        document = json.loads(path.read_bytes())
        rows = [
            ClassRecord(r["index"], ClassId(r["class_id"]), r["label"]) for r in document["classes"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: unreadable class registry ({error}); restore it") from error
    if document.get("format") != _CLASSES_FORMAT or [r.index for r in rows] != list(
        range(len(rows))
    ):
        raise RunError(f"{path}: not a {_CLASSES_FORMAT} registry; restore it")
    return tuple(rows)


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be removed ({error.strerror}); remove it") from error


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be made ({error.strerror}); name another directory"
        ) from error


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
