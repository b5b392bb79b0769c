"""The classes of a running model: they follow the device's memory, whoever writes to it.

Owns when a running model exchanges its tensors. Every call asks the ledger whether it moved, which
is one ``stat``; if it did, the call that notices brings the tensors up to date before it reads
them. A forget of this process takes the same way, with the new tensors made beforehand, so that no
call waits for the disk::

    live = LiveClasses(open_model(Path("model")), graph.variant)
    with live.use() as snapshot:
        graph.run_arranged(images, snapshot.tensors, len(snapshot.classes))
    live.forget("daisy")
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from pfm_edge_runtime._layout import ClassLayout
from pfm_edge_runtime._snapshot import ClassInfo, Held, Snapshot
from pfm_edge_runtime.bundle import ClassId, StatementDigest
from pfm_edge_runtime.errors import (
    PackageError,
    PfmEdgeError,
    StateError,
    StateUnreadableError,
    UnknownClassError,
    VariantError,
)
from pfm_edge_runtime.forgetting import Forgotten, find_class, prepare_forget
from pfm_edge_runtime.manifest import Variant
from pfm_edge_runtime.opening import OpenModel, read_verified
from pfm_edge_runtime.state import Memory, Order
from pfm_edge_runtime.variants import require_room

__all__ = ["LiveClasses"]

_LOG = logging.getLogger("pfm_edge_runtime")


class LiveClasses:
    """The tensors that calls read now, and the ledger that they follow.

    Args:
        model: The package.
        variant: The graph that runs; it decides how the tensors lie.

    Raises:
        VariantError: The graph has not room for the classes.
    """

    def __init__(self, model: OpenModel, variant: Variant) -> None:
        require_room(variant, len(model.bundle.class_ids))
        self._files = model.files
        self._device = model.state
        self._require_state = model.require_state
        self._variant = variant
        self._layout = ClassLayout(model.files.manifest.class_inputs, variant.capacity)
        self._held = Held(Snapshot.of(model.bundle, self._layout))
        model.bundle.wipe()
        self._number = model.state.memory.number
        self._memory = model.state.memory
        self._outlived: frozenset[ClassId] = frozenset()  # forgotten in a memory that is gone
        self._prepared: Snapshot | None = None
        self._behind = False
        self._catching_up = Lock()  # never held while the disk is written
        self._forgetting = Lock()  # one forget of this process at a time; calls never wait for it
        self._complained = ""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes known now, ascending by class id."""
        self._follow()
        return self._held.current.classes

    @contextmanager
    def use(self) -> Iterator[Snapshot]:
        """Read the classes known now; the tensors stay as they are until the block ends."""
        self._follow()
        with self._held.use() as snapshot:
            yield snapshot

    def forget(self, key: str, order: Order | None) -> Forgotten:
        """Forget a class: see ``Classifier.forget``."""
        with self._forgetting:
            known = ((each.class_id, each.label) for each in self._held.current.classes)
            # Before another process's forget of that very class takes its label from us.
            class_id = find_class(known, key)
            try:
                return self._forget(key, order)
            except UnknownClassError:
                if class_id is None or class_id == key:
                    raise
                return self._forget(class_id, order)

    def _forget(self, key: str, order: Order | None) -> Forgotten:
        with prepare_forget(
            self._files.directory,
            [key],
            state=self._device.directory,
            require_state=self._require_state,
            order=order,
        ) as pending:
            if pending.files.manifest_digest != self._files.manifest_digest:
                raise PackageError(
                    f"{self._files.directory} holds another package by now: open it again"
                )
            # A bundle that another process installed may be too large for this graph; that is
            # no reason not to forget: what is in memory then loses the class all the same.
            if self._layout.holds(len(pending.remaining.class_ids)):
                self._prepared = Snapshot.of(pending.remaining, self._layout)
            try:
                pending.commit()
                with suppress(StateUnreadableError):
                    self._follow()  # the exchange: from here on no call sees the class
                self._refuse(pending.class_ids)
            finally:
                self._prepared = None
            try:
                (forgotten,) = pending.erase()
            finally:
                pending.wipe()
        return forgotten

    def _refuse(self, class_ids: tuple[ClassId, ...]) -> None:
        """Take out what is forgotten, should the ledger not be legible to this process just now."""
        with self._catching_up:
            current, prepared = self._held.current, self._prepared
            gone = {each.class_id for each in current.classes if each.class_id in class_ids}
            if gone:
                self._held.exchange(self._less(current, gone, prepared))

    def _less(self, current: Snapshot, gone: set[ClassId], prepared: Snapshot | None) -> Snapshot:
        if prepared is not None and _are_the_same(prepared, current, gone):
            return prepared
        return current.without(gone, self._layout)

    def _follow(self) -> None:
        """Bring the tensors up to date if the ledger moved.

        ``_behind`` covers the time in which the memory is read already and the tensors are not
        exchanged yet. It is read after the ledger: whoever finds both at rest finds the exchange
        done.
        """
        if not self._device.moved() and not self._behind:
            return
        with self._catching_up:
            if not self._device.moved():
                return
            self._behind = True
            try:
                self._catch_up()
            finally:
                self._behind = False

    def _catch_up(self) -> None:
        try:
            memory = self._device.refresh()
        except StateUnreadableError:
            raise  # others may have forgotten a class meanwhile: better no answer than its name
        except StateError as error:
            self._complain(error)  # damaged or gone: nobody can forget by it, what we know holds
            return
        if memory.identity.device != self._memory.identity.device:
            self._outlived |= self._memory.tombstones.keys()  # wiped, and another one begun
        self._memory = memory
        current, prepared = self._held.current, self._prepared
        gone = self._gone(current)
        if self._must_read(memory, current):
            fresh = self._read(gone)
        elif not gone:
            return
        else:
            fresh = self._less(current, gone, prepared)
        self._held.exchange(fresh)
        self._number = memory.number

    def _gone(self, snapshot: Snapshot) -> set[ClassId]:
        forgotten = self._memory.tombstones.keys() | self._outlived
        return {each.class_id for each in snapshot.classes if each.class_id in forgotten}

    def _must_read(self, memory: Memory, current: Snapshot) -> bool:
        """Tell whether the disk knows something that memory alone does not say.

        Another bundle was installed, or a tombstone that could not be made durable was taken back.
        """
        floor = memory.floors.get(self._files.manifest.model_id)
        other: StatementDigest | None = None if floor is None else floor.statement
        return other != current.statement or memory.number < self._number

    def _read(self, gone: set[ClassId]) -> Snapshot:
        """Read the bundle again; keep the old one, less what was forgotten, if that fails."""
        try:
            bundle = read_verified(
                self._files, self._device, require_state=self._require_state
            ).bundle
        except PfmEdgeError as error:
            self._complain(error)
            return self._held.current.without(gone, self._layout)
        try:
            require_room(self._variant, len(bundle.class_ids))
            snapshot = Snapshot.of(bundle, self._layout)
        except VariantError as error:
            self._complain(error)
            return self._held.current.without(gone, self._layout)
        finally:
            bundle.wipe()
        back = self._gone(snapshot)
        if not back:
            return snapshot
        smaller = snapshot.without(back, self._layout)
        snapshot.zero()
        return smaller

    def _complain(self, error: PfmEdgeError) -> None:
        if str(error) != self._complained:  # once, not at every call
            self._complained = str(error)
            _LOG.warning("%s: goes on with what it knows: %s", self._files.directory, error)


def _are_the_same(prepared: Snapshot, current: Snapshot, gone: set[ClassId]) -> bool:
    kept = [each for each in current.classes if each.class_id not in gone]
    return prepared.statement == current.statement and list(prepared.classes) == kept
