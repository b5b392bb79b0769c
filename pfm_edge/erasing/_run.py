"""Forgetting in a training run: committed by one line of its registry, then erased everywhere.

Owns the order::

    report = forget_in_run(Path("runs/flowers"), class_ids)

1. The run is held alone: a training would write the class again.
2. The registry's row keeps the id alone, on the forget list. **This is the commit point**: nothing
   trains, evaluates or exports the run now until the rest is done.
3. The registry that the run shares with others learns it.
4. Every checkpoint loses the class's prompt, head row and the optimiser's memory of both.
5. The evaluation goes: it is that of a model with the class.
6. Every package that the registry knows loses its entry.
7. The registry notes that the class is erased.

Each step does nothing where it was done before, so whoever comes next finishes what a killed
process left. Old bytes are overwritten as far as the file system lets us (`erasure`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pfm_edge.erasing._packages import redact
from pfm_edge.errors import RunError
from pfm_edge.registry import Registry, change_registry, read_registry
from pfm_edge.training import Run, alone, drop_classes, is_checkpoint
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.erasure import OldBytes, erase, finish
from pfm_edge_runtime.errors import PfmEdgeError

__all__ = ["RunForgotten", "finish_forgetting", "forget_in_run"]

_WRITTEN = (  # what a killed writer may have left a temporary file of
    "config.yaml",
    "classes.json",
    "backbone.safetensors",
    "checkpoint.safetensors",
    "best.safetensors",
    "metrics.jsonl",
    "evaluation.json",
)


@dataclass(frozen=True, slots=True)
class RunForgotten:
    """What became of classes of a run.

    Attributes:
        class_ids: The classes; none of them is trained, evaluated or exported again.
        checkpoints: The checkpoints that held one of them, and what was done to their old bytes.
        packages: The packages that the registry knows; none holds one of them now.
        missing: Packages that it knows, but that are not where they were.
    """

    class_ids: tuple[ClassId, ...]
    checkpoints: Mapping[Path, OldBytes]
    packages: tuple[Path, ...]
    missing: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "forgotten": list(self.class_ids),
            "checkpoints": [
                {"path": str(path), **asdict(old)} for path, old in self.checkpoints.items()
            ],
            "packages": [str(each) for each in self.packages],
            "missing_packages": [str(each) for each in self.missing],
        }


def forget_in_run(path: Path, class_ids: Sequence[ClassId]) -> RunForgotten:
    """Forget classes of a run, for good; forgetting one twice is no error.

    Args:
        path: the run.
        class_ids: as `find_classes` and `overdue_classes` return them.

    Raises:
        RunError: no such run; another process works on it; or the classes are forgotten, but not
            erased everywhere yet: the message says why, and the next call goes on.
        RegistryError: a registry is damaged.
        StorageError: the disk refused the registry, and nothing changed.
    """
    run = Run.open(path)
    read_registry(run.registry)  # a shared one that is damaged must stop this before the commit
    with alone(path), _after_commit(run, class_ids):
        change_registry(run.own_registry, lambda known: known.without(class_ids), erasing=True)
        return _erase(run, class_ids)


def finish_forgetting(path: Path) -> RunForgotten | None:
    """Finish what a killed forget of this run left to do; None where there was nothing.

    Raises:
        RunError: as `forget_in_run`.
        RegistryError: a registry is damaged.
    """
    run = Run.open(path)
    own, shared = read_registry(run.own_registry), read_registry(run.registry)
    if not own.unfinished and set(own.forgotten) <= set(shared.forgotten):
        return None
    with alone(path), _after_commit(run, own.unfinished):
        return _erase(run, own.unfinished)


def _erase(run: Run, class_ids: Sequence[ClassId]) -> RunForgotten:
    own = read_registry(run.own_registry)
    gone = set(own.forgotten)
    home = change_registry(run.registry, lambda known: known.without(own.forgotten), erasing=True)
    checkpoints = dict(_erase_from_files(run.path, gone, own))
    known = list(dict.fromkeys(each.path for each in (*own.packages, *home.packages)))
    packages = _redact_all(known, gone | set(home.forgotten))
    missing = tuple(each for each in known if each not in packages)
    change_registry(run.own_registry, lambda known: known.with_erased(gone))
    return RunForgotten(tuple(class_ids), checkpoints, packages, missing)


def _redact_all(known: Sequence[Path], gone: Collection[ClassId]) -> tuple[Path, ...]:
    """Take the classes out of all that was exported, and return what is there.

    Raises:
        PfmEdgeError: one of them stops it; the others have lost the classes all the same.
    """
    there: list[Path] = []
    problems: list[PfmEdgeError] = []
    for each in known:
        try:
            if redact(each, gone, noted=known):
                there.append(each)
        except PfmEdgeError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    return tuple(there)


def _erase_from_files(
    path: Path, gone: Collection[ClassId], own: Registry
) -> Iterator[tuple[Path, OldBytes]]:
    """Erase the classes from every file of the run, and leftovers of all of them."""
    for file in sorted(path.rglob("*.safetensors")):
        old = drop_classes(file, gone, own.model) if is_checkpoint(file) else None
        if old is not None:
            yield file, old
        finish(file)
    evaluation = path / "evaluation.json"
    if own.unfinished and evaluation.exists():
        erase(evaluation)
    for name in _WRITTEN:
        finish(path / name)


@contextmanager
def _after_commit(run: Run, class_ids: Collection[ClassId]) -> Iterator[None]:
    """Say of an error that came after the commit point that the classes are forgotten."""
    try:
        yield
    except PfmEdgeError as error:
        if not set(class_ids) <= set(read_registry(run.own_registry).forgotten):
            raise
        raise RunError(
            f"{run.path}: forgotten, but not erased everywhere yet: {error}; then "
            f"pfm-edge forget {run.path} finishes it"
        ) from error
