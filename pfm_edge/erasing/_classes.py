"""Which classes are meant: by id, or by label, in a run or in the registry that it shares.

find_classes(Path("runs/flowers"), ["daisy"])       # ("5f0c6e3e9d6c4b7f8a1b2c3d4e5f6071",)

No message repeats a name that was given: it may be the label of a class that is gone.
"""

from collections.abc import Sequence
from pathlib import Path

from pfm_edge.registry import read_registry
from pfm_edge.training import Run
from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import UnknownClassError

__all__ = ["find_classes", "overdue_classes"]


def find_classes(path: Path, names: Sequence[str]) -> tuple[ClassId, ...]:
    """Find the classes of a run, of the registry that it shares, and of both forget lists.

    Args:
        path: the run.
        names: class ids or labels; naming a class twice is no error.

    Raises:
        UnknownClassError: one of them names no class, or two.
        RunError: no such run, or a registry is damaged.
    """
    run = Run.open(path)
    registries = [read_registry(each) for each in {run.own_registry: 0, run.registry: 0}]
    found: dict[ClassId, None] = {}  # in order, each once
    for number, name in enumerate(names, start=1):
        which = f"name {number} of {len(names)}: " if len(names) > 1 else ""
        matches = {each for registry in registries for each in registry.find(name)}
        if not matches:
            raise UnknownClassError(
                f"{which}no class has that id or label; {run.own_registry} lists them"
            )
        if len(matches) > 1:
            raise UnknownClassError(f"{which}it names two classes: give the class's own id")
        found[matches.pop()] = None
    return tuple(found)


def overdue_classes(path: Path) -> tuple[ClassId, ...]:
    """Return the classes of a run that are on a forget list, but may not be erased from it yet.

    A killed forget leaves such, and a forget in another run that shares the registry.

    Raises:
        RunError: no such run, or a registry is damaged.
    """
    run = Run.open(path)
    own, shared = read_registry(run.own_registry), read_registry(run.registry)
    elsewhere = tuple(each for each in run.class_ids if each in shared.forgotten)
    return (*own.unfinished, *elsewhere)
