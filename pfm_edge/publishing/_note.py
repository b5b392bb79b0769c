"""A note in a registry of what is about to appear: there before it does, gone again if it did not.

Owns the order that a forget counts on: what holds classes is noted first, and written then::

    note = Note(run.registry)
    with note.withdrawn_on_failure():
        note.add(record, lambda known: known.with_artefact(record))
        ...                             # write it
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pfm_edge.registry import PackageRecord, Registry, change_registry
from pfm_edge_runtime._disk import is_temporary
from pfm_edge_runtime.errors import PfmEdgeError

__all__ = ["Note"]


class Note:
    """The note of one export in one registry."""

    def __init__(self, registry: Path) -> None:
        self._registry = registry
        self._record: PackageRecord | None = None
        self._was_there = True

    def add(self, record: PackageRecord, change: Callable[[Registry], Registry]) -> None:
        """Note what is about to appear.

        Args:
            record: what is noted.
            change: makes the registry that has it; may raise.

        Raises:
            RegistryError: the registry is missing, unreadable or damaged.
            StorageError: the disk refused, and nothing is noted.
        """

        def noted(known: Registry) -> Registry:
            changed = change(known)
            self._record = record
            self._was_there = any(each.path == record.path for each in known.packages)
            return changed

        change_registry(self._registry, noted)

    def read_again(self) -> Registry:
        """Return the registry after the export, with the note in it.

        Another export to the same path, of another run, may have failed meanwhile and taken its
        own note back.

        Raises:
            RegistryError: the registry is missing, unreadable or damaged.
            StorageError: the disk refused.
        """
        record = self._record

        def noted(known: Registry) -> Registry:
            if record is None or record in known.packages:
                return known
            return known.with_artefact(record)

        return change_registry(self._registry, noted)

    @contextmanager
    def withdrawn_on_failure(self) -> Iterator[None]:
        """Take the note back if the block raises and left nothing that could hold a class.

        A note that was there before stays: what it is about may be elsewhere by now. If the note
        cannot be taken back, it stays too, and a forget says that it found nothing there.
        """
        try:
            yield
        except BaseException:
            if self._record is not None and not self._was_there:
                self._withdraw(self._record.path)
            raise

    def _withdraw(self, path: Path) -> None:
        if not _anything_of(path):
            with suppress(PfmEdgeError):
                change_registry(self._registry, lambda known: known.without_artefact(path))


def _anything_of(path: Path) -> bool:
    """Tell whether it is there, or what a killed process left of it, or nobody can look."""
    if os.path.lexists(path):
        return True
    try:
        return any(is_temporary(each.name, of=path.name) for each in path.parent.iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True
