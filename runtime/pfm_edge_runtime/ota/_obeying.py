"""A forget list, obeyed: every class that it names is forgotten on this device, here or not.

Owns the step from a verified list to the ledger and the bundle. Whatever is wrong with the package,
the list holds::

    obeyed = obey(Path("model"), device, forget_list)
    obeyed.applied, obeyed.absent

All records of a list are on the disk together, or none is: it costs a few syncs, whether it names
one class or a thousand. A class that is in the package's bundle gets a tombstone, and is erased as
in ``pfm_edge_runtime.forgetting``; one that is not gets an ``absent`` record, which is tombstone
and receipt in one: a bundle that comes with it later loses it before anything sees it.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import BundleError, PackageError, StateError, StorageError
from pfm_edge_runtime.opening import OpenModel, holding, settle
from pfm_edge_runtime.ota.forget_list import ForgetList
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.recording import entries_of, erase_and_record, software, tombstones
from pfm_edge_runtime.state import AbsentRecord, DeviceState, Order

__all__ = ["Obeyed", "obey"]


@dataclass(frozen=True, slots=True)
class Obeyed:
    """What became of a forget list.

    Attributes:
        number: The list's own number.
        rows: How many classes it names.
        applied: How many of them this model knew, and knows no more.
        absent: How many were not here, and can never come.
        problem: Why the bytes of one are not erased yet; ``None`` if all are.
    """

    number: int
    rows: int
    applied: int
    absent: int
    problem: StorageError | None = None

    def and_then(self, later: "Obeyed") -> "Obeyed":
        """Return what became of this list and one that was obeyed after it, together."""
        newest = max(self, later, key=lambda each: each.number)
        return Obeyed(
            newest.number,
            newest.rows,
            self.applied + later.applied,
            self.absent + later.absent,
            self.problem or later.problem,
        )


def obey(
    directory: Path, device: DeviceState, found: ForgetList, *, require_state: bool = False
) -> Obeyed:
    """Forget every class of a list; durable when it returns.

    Args:
        directory: The package.
        device: The device's memory.
        found: The list.
        require_state: As for ``opening.open_model``.

    Raises:
        StorageError: The disk refused, and no class of the list was forgotten by this call.
        StateError: The device's memory is damaged, or gone.
    """
    device.refresh()
    if not _new_orders(device, found) and not device.memory.unseen:
        return Obeyed(found.number, len(found.rows), 0, 0)
    with _held(directory, device) as files:
        model = None if files is None else _settled(files, device, require_state=require_state)
        return _forget(files, model, device, found)


def _forget(
    files: PackageFiles | None,
    model: OpenModel | None,
    device: DeviceState,
    found: ForgetList,
) -> Obeyed:
    orders = _new_orders(device, found, again=model is not None)
    here = [] if model is None else [each for each in model.bundle.class_ids if each in orders]
    absent = [each for each in orders if each not in set(here)]
    records = _absent_records(files, model, device, {each: orders[each] for each in absent})
    if model is None or not here:
        if records:
            device.append(*records)
        return Obeyed(found.number, len(found.rows), 0, len(absent))
    gone = tombstones(device, model.bundle, entries_of(model.bundle, here), orders)
    device.append(*gone, *records)
    problem = None
    try:
        remaining = model.bundle.without(here)
        erase_and_record(device, model.files.bundle_path, remaining)
    except StorageError as error:
        problem = error
    return Obeyed(found.number, len(found.rows), len(here), len(absent), problem)


def _new_orders(
    device: DeviceState, found: ForgetList, *, again: bool = False
) -> dict[ClassId, Order]:
    """Return who asked for which class, as far as the ledger does not say that it is forgotten.

    Args:
        device: The device's memory.
        found: The list.
        again: Whether to take in what was forgotten before there was a bundle to look at.
    """
    memory = device.memory
    unseen = memory.unseen if again else frozenset()
    return {
        row.class_id: Order(row.order_id, found.digest)
        for row in found.rows
        if row.class_id not in memory.tombstones or row.class_id in unseen
    }


def _absent_records(
    files: PackageFiles | None,
    model: OpenModel | None,
    device: DeviceState,
    orders: dict[ClassId, Order],
) -> list[AbsentRecord]:
    digest = None if model is None else hashlib.sha256(model.files.read_bundle().data).hexdigest()
    moment, name = device.moment(), software()
    return [
        AbsentRecord(
            class_id=class_id,
            model_id=None if files is None else files.manifest.model_id,
            bundle=digest,
            order=order,
            device=device.device,
            software=name,
            moment=moment,
        )
        for class_id, order in orders.items()
    ]


@contextmanager
def _held(directory: Path, device: DeviceState) -> Iterator[PackageFiles | None]:
    """Hold the device's memory, and the package if there is one that can be read."""
    try:
        files = PackageFiles.open(directory, verify_files=False)
    except PackageError:
        with device.exclusive():
            yield None
        return
    with holding(files, device):
        yield files


def _settled(files: PackageFiles, device: DeviceState, *, require_state: bool) -> OpenModel | None:
    """Open the package; ``None`` where that fails: the list holds all the same."""
    try:
        return settle(files, device, require_state=require_state)
    except (BundleError, PackageError, StateError, StorageError):
        return None
