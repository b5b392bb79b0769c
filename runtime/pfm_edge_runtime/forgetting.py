"""Forgetting on the device: committed when it returns, and nothing brings the class back.

Owns the order of a forget, and how a class is named::

    (forgotten,) = forget_classes(Path("model"), ["daisy"])
    forgotten.erased, forgotten.receipt

1. The class is resolved, the device's memory and the package are held.
2. The tombstone is appended to the ledger and synced. **This is the commit point**: from here on
   the class is never served again, whatever else fails.
3. The new bundle is written beside the old and synced; the old one gets its dying name, the
   directory is synced; the new one is renamed over the old, the directory is synced.
4. A running model exchanges its tensors right after step 2, and zeroes the old ones when the calls
   that still read them have ended.
5. The dying file is overwritten in place, synced and unlinked.
6. ``erased`` is appended to the ledger; the receipt is a function of that record.

If step 2 fails, nothing changed. If a later one fails, the class is *forgotten, not yet erased*:
refused from memory, without a receipt, and tried again whenever the package is opened.

No message ever repeats the name that was given, which may be the label of a class that is gone, nor
hints at the nearest one: it would stay in a log when that class goes next.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from unicodedata import normalize

from pfm_edge_runtime.bundle import ClassId, VerifiedBundle, is_class_id
from pfm_edge_runtime.errors import StateError, StorageError, UnknownClassError
from pfm_edge_runtime.opening import OpenModel, holding, open_state, settle
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.receipts import make_receipt
from pfm_edge_runtime.recording import entries_of, erase_and_record, record_tombstones
from pfm_edge_runtime.state import DeviceState, ErasedRecord, Order

__all__ = ["Forgotten", "PendingForget", "find_class", "forget_classes", "prepare_forget"]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of one class.

    Attributes:
        class_id: The class; it is never served again.
        erased: Whether its bytes are gone from the package; if not, that is tried again whenever
            the package is opened.
        receipt: The device's signed statement that they are (a DSSE envelope, JSON); ``None`` as
            long as they are not, or if the device has not the key any more that it had then.
        problem: Why there is no receipt; ``None`` if there is one.
        bytes_before: Size of the bundle's file before, in bytes.
        bytes_after: And after.
        seconds: From the request until all of it was durable; the commit came earlier.
    """

    class_id: ClassId
    erased: bool
    receipt: str | None = field(repr=False)
    problem: str | None
    bytes_before: int
    bytes_after: int
    seconds: float


class PendingForget:
    """A forget that is ready to be committed; made by :func:`prepare_forget` only.

    Attributes:
        files: The package.
        class_ids: The classes that will go, and those among the named that went before.
        remaining: The bundle that will take the old one's place.
    """

    def __init__(
        self, model: OpenModel, class_ids: tuple[ClassId, ...], order: Order | None, started: float
    ) -> None:
        self.files = model.files
        self.class_ids = class_ids
        self._bundle = model.bundle
        self._going = [each for each in class_ids if each in model.bundle.class_ids]
        self._entries = entries_of(model.bundle, self._going)
        self.remaining: VerifiedBundle = model.bundle.without(self._going)
        self._state = model.state
        self._order = order
        self._problem = model.problem
        self._sizes = [model.bundle_bytes, model.bundle_bytes]
        self._started = started

    def commit(self) -> None:
        """Write the tombstones: when it returns, the classes are forgotten.

        Raises:
            StorageError: The disk refused, and nothing changed.
        """
        if self._entries:
            record_tombstones(self._state, self.remaining, self._entries, self._order)

    def erase(self) -> tuple[Forgotten, ...]:
        """Rewrite the bundle and erase the old one; whatever fails waits for the next open."""
        if self._entries:
            try:
                self._sizes[1] = erase_and_record(
                    self._state, self.files.bundle_path, self.remaining
                )
                self._problem = None
            except StorageError as error:
                self._problem = error
        seconds = perf_counter() - self._started
        return tuple(self._outcome(each, seconds) for each in self.class_ids)

    def wipe(self) -> None:
        """Zero both bundles in memory; nothing can be done with this object afterwards."""
        self._bundle.wipe()
        self.remaining.wipe()

    def _outcome(self, class_id: ClassId, seconds: float) -> Forgotten:
        memory = self._state.memory
        statement = self.remaining.place.statement
        waits = {each.class_id for each in memory.pending.get(statement, ())}
        record = memory.erased(class_id, statement) or memory.erased(class_id)
        receipt: str | None = None
        problem: str | None = str(self._problem or "another package still holds it")
        if record is not None and class_id not in waits:
            receipt, problem = self._receipt(record)
        return Forgotten(
            class_id=class_id,
            erased=record is not None and class_id not in waits,
            receipt=receipt,
            problem=problem,
            bytes_before=self._sizes[0],
            bytes_after=self._sizes[1],
            seconds=seconds,
        )

    def _receipt(self, record: ErasedRecord) -> tuple[str | None, str | None]:
        """Return the receipt, or why there is none: what is done is done without it, too."""
        try:
            return make_receipt(record, self._state), None
        except StateError as error:
            return None, str(error)


@contextmanager
def prepare_forget(
    directory: str | Path,
    keys: Sequence[str],
    *,
    state: DeviceState | str | Path | None = None,
    require_state: bool = False,
    order: Order | None = None,
) -> Iterator[PendingForget]:
    """Hold package and memory, find the classes and make the new bundle; commit nothing yet.

    It starts from the bundle on disk, not from one in memory: another process may have forgotten
    a class since, and that class must not come back.

    Args:
        directory: The package.
        keys: Class ids or labels; the id of a class that was forgotten before is no error.
        state: As for ``opening.open_model``.
        require_state: As for ``opening.open_model``.
        order: Who asked for it, if that is known.

    Raises:
        UnknownClassError: One of them names no class.
        PackageError: The package cannot be read; also ManifestError and BundleError.
        StateError: The device's memory is damaged, another device's, or missing where required.
        StorageError: They cannot be locked.
    """
    started = perf_counter()
    # The graph may be damaged: that must not stop a forget.
    files = PackageFiles.open(directory, verify_files=False)
    device = open_state(state, require_state=require_state)
    with holding(files, device):
        # What a crash left is finished first.
        model = settle(files, device, require_state=require_state)
        class_ids = _find_all(model, keys)
        yield PendingForget(model, class_ids, order, started)


def forget_classes(
    directory: str | Path,
    keys: Sequence[str],
    *,
    state: DeviceState | str | Path | None = None,
    require_state: bool = False,
    order: Order | None = None,
) -> tuple[Forgotten, ...]:
    """Forget classes of a package for good; committed when it returns.

    Args:
        directory: The package.
        keys: Class ids or labels; naming a class twice is no error, nor is one that was forgotten
            before, by its id: it gets the same receipt.
        state: As for ``opening.open_model``.
        require_state: As for ``opening.open_model``.
        order: Who asked for it, if that is known.

    Raises:
        UnknownClassError: One of them names no class, and none was forgotten.
        StorageError: The disk refused, and nothing changed.
        PackageError: The package cannot be read; also ManifestError and BundleError.
        StateError: As for :func:`prepare_forget`.
    """
    with prepare_forget(
        directory, keys, state=state, require_state=require_state, order=order
    ) as pending:
        try:
            pending.commit()
            return pending.erase()
        finally:
            pending.wipe()


def find_class(classes: Iterable[tuple[ClassId, str]], key: str) -> ClassId | None:
    """Return the class of that id or label, if there is one.

    Args:
        classes: Id and label of the classes to look among.
        key: A class id, or a label in any of Unicode's normal forms.

    Raises:
        UnknownClassError: ``key`` is the id of one class and the label of another.
    """
    wanted = normalize("NFC", key)
    found = {class_id for class_id, label in classes if key == class_id or wanted == label}
    if len(found) > 1:
        raise UnknownClassError("the name is both an id and a label: give the class's own id")
    return found.pop() if found else None


def _find_all(model: OpenModel, keys: Sequence[str]) -> tuple[ClassId, ...]:
    bundle, forgotten = model.bundle, model.state.memory.tombstones
    found: dict[ClassId, None] = {}  # in order, each once
    for number, key in enumerate(keys, start=1):
        class_id = find_class(zip(bundle.class_ids, bundle.labels, strict=True), key)
        if class_id is None and is_class_id(key) and ClassId(key) in forgotten:
            class_id = ClassId(key)
        if class_id is None:
            which = f"name {number} of {len(keys)}: " if len(keys) > 1 else ""
            raise UnknownClassError(
                f"{which}no class has that id or label; pfm-device classes lists them"
            )
        found[class_id] = None
    return tuple(found)
