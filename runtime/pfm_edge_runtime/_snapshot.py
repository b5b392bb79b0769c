"""The class tensors in use: one snapshot at a time, exchanged at once, zeroed when nobody reads it.

Owns which classes a call sees. A call that has begun keeps its snapshot; an exchange is one
reference; the last reader of a snapshot that was replaced overwrites its tensors::

    held = Held(Snapshot.of(bundle, layout))
    with held.use() as snapshot:
        graph.run_arranged(images, snapshot.tensors, len(snapshot.classes))
    held.exchange(snapshot.without(gone, layout))
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from pfm_edge_runtime._layout import ClassArrays, ClassLayout, wipe
from pfm_edge_runtime.bundle import ClassId, StatementDigest, VerifiedBundle

__all__ = ["ClassInfo", "Held", "Snapshot"]


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """A class that the model knows.

    Attributes:
        class_id: 32 hexadecimal digits; stays the same over exports and trainings.
        label: What a person reads.
    """

    class_id: ClassId
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The classes known at one moment; its arrays are its own, and belong to nobody else.

    Attributes:
        classes: Ascending by class id.
        tensors: What the graph takes, by name.
        statement: Digest of the statement that they come from.
    """

    classes: tuple[ClassInfo, ...]
    tensors: ClassArrays
    statement: StatementDigest

    @classmethod
    def of(cls, bundle: VerifiedBundle, layout: ClassLayout) -> "Snapshot":
        """Copy the tensors of a bundle to where the graph wants them.

        Raises:
            TypeError: ``bundle`` was not verified.
        """
        if not isinstance(bundle, VerifiedBundle):
            raise TypeError("a classifier takes verified bundles only")
        classes = tuple(map(ClassInfo, bundle.class_ids, bundle.labels))
        return cls(classes, layout.arrange(bundle.tensors), bundle.place.statement)

    def without(self, gone: Collection[ClassId], layout: ClassLayout) -> "Snapshot":
        """Copy the classes that are not ``gone``."""
        kept = [row for row, each in enumerate(self.classes) if each.class_id not in gone]
        tensors = layout.arrange(layout.rows_of(self.tensors), kept)
        return Snapshot(tuple(self.classes[row] for row in kept), tensors, self.statement)

    def zero(self) -> None:
        """Overwrite the tensors; the snapshot is of no use afterwards."""
        wipe(self.tensors)


class Held:
    """The snapshot in use, and how many calls still read those it replaced."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._current = snapshot
        self._readers: dict[Snapshot, int] = {}
        self._lock = Lock()  # held for a few counts only, never for work

    @property
    def current(self) -> Snapshot:
        """The snapshot that the next call will use."""
        return self._current

    @contextmanager
    def use(self) -> Iterator[Snapshot]:
        """Read the current snapshot; it keeps its tensors until the block ends."""
        with self._lock:
            snapshot = self._current
            self._readers[snapshot] = self._readers.get(snapshot, 0) + 1
        try:
            yield snapshot
        finally:
            self._release(snapshot)

    def exchange(self, snapshot: Snapshot) -> None:
        """Let every call from now on use ``snapshot``; zero the old one when its readers end."""
        with self._lock:
            old, self._current = self._current, snapshot
            unread = old is not snapshot and old not in self._readers
        if unread:
            old.zero()

    def _release(self, snapshot: Snapshot) -> None:
        with self._lock:
            self._readers[snapshot] -= 1
            last = self._readers[snapshot] == 0
            if last:
                del self._readers[snapshot]
            unread = last and snapshot is not self._current
        if unread:
            snapshot.zero()
