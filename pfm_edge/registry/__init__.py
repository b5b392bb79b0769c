"""The class registry: which id a class has, and which ids must never be published again.

Owns `classes.json`, a run's own or one that several runs share::

    registry = change_registry(path, lambda known: known.with_labels(["daisy", "rose"]))
    registry.id_of("daisy")                # drawn once, the same in every retraining

    change_registry(path, lambda known: known.without([class_id]), erasing=True)

What a forgotten class leaves there is its id.

Beside it may lie what remembers how far repositories had come that use it (`pfm_edge.ota`); it
belongs to the registry, and stays when a run is replaced.
"""

from pfm_edge.registry._document import KnownClass, PackageRecord, Registry
from pfm_edge.registry._file import MARK_SUFFIX, change_registry, read_registry

__all__ = [
    "MARK_SUFFIX",
    "KnownClass",
    "PackageRecord",
    "Registry",
    "change_registry",
    "read_registry",
]
