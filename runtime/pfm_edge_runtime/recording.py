"""Disk and ledger, step by step: what is written to which of them first, and why.

Owns the pairs of a deed and its record. The caller holds the package and the device's memory
(``opening.holding``)::

    record_tombstones(device, bundle, entries_of(bundle, [class_id]), order=None)
    erase_and_record(device, files, bundle.without([class_id]))

A tombstone comes before its deed: from then on the class is refused, and what is missing in the
file is known to be missing. ``install`` and ``erased`` come after theirs: they state what is so.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

from pfm_edge_runtime.bundle import ClassId, EntryDigest, VerifiedBundle
from pfm_edge_runtime.erasure import OldBytes, finish, old_bytes, replace_erasing
from pfm_edge_runtime.keys import key_id
from pfm_edge_runtime.state import (
    DeviceState,
    ErasedRecord,
    InstallRecord,
    Order,
    TombstoneRecord,
)

__all__ = [
    "entries_of",
    "erase_and_record",
    "finish_and_record",
    "record_erased",
    "record_install",
    "record_tombstones",
    "software",
    "tombstones",
]

_LOG = logging.getLogger("pfm_edge_runtime")
_DISTRIBUTION = "pfm-edge-runtime"

GoneEntry: TypeAlias = tuple[ClassId, EntryDigest]


def entries_of(bundle: VerifiedBundle, class_ids: Collection[ClassId]) -> tuple[GoneEntry, ...]:
    """Return id and entry digest of some of a bundle's classes."""
    pairs = zip(bundle.class_ids, bundle.entry_digests, strict=True)
    return tuple(pair for pair in pairs if pair[0] in class_ids)


def record_tombstones(
    device: DeviceState,
    bundle: VerifiedBundle,
    entries: Collection[GoneEntry],
    order: Order | None,
) -> None:
    """Append a tombstone for each entry: the commit point of a forget.

    Raises:
        StorageError: The disk refused, and nothing changed.
    """
    device.append(*tombstones(device, bundle, entries, dict.fromkeys(dict(entries), order)))


def tombstones(
    device: DeviceState,
    bundle: VerifiedBundle,
    entries: Collection[GoneEntry],
    orders: Mapping[ClassId, Order | None],
) -> list[TombstoneRecord]:
    """Return a tombstone for each entry, to be appended; ``orders`` says who asked for which."""
    return [
        TombstoneRecord(
            class_id=class_id,
            model_id=bundle.model_id,
            statement=bundle.place.statement,
            entry_digest=digest,
            order=orders[class_id],
            moment=device.moment(),
        )
        for class_id, digest in entries
    ]


def record_install(
    device: DeviceState,
    bundle: VerifiedBundle,
    directory: Path,
    *,
    absent: Collection[EntryDigest],
) -> None:
    """Append that a bundle is in use; its place is the floor now.

    Args:
        device: The device's memory.
        bundle: The bundle.
        directory: The package.
        absent: The listed entries that its file came without.

    Raises:
        StorageError: The disk refused, and nothing changed.
    """
    first_use = device.memory.trust_for(bundle.model_id, device.trust) is None
    device.append(
        InstallRecord(
            model_id=bundle.model_id,
            statement=bundle.place.statement,
            epoch=bundle.place.epoch,
            sequence=bundle.place.sequence,
            absent=tuple(sorted(absent)),
            signers=tuple(sorted(bundle.signers)),
            moment=device.moment(),
        )
    )
    if first_use:
        signed = ", ".join(sorted(map(key_id, bundle.signers)))
        _LOG.warning(
            "%s: trusted on first use, %s; the device's memory is %s",
            directory,
            f"signed by {signed}" if signed else "though nobody signed it",
            device.directory,
        )


def erase_and_record(device: DeviceState, path: Path, remaining: VerifiedBundle) -> int:
    """Write the bundle that remains, erase the old file, append ``erased``; return the size.

    Raises:
        StorageError: The disk refused; the next open tries again.
    """
    data = remaining.to_bytes()
    done = replace_erasing(path, data)
    record_erased(device, remaining, data, lambda _: done)
    return len(data)


def finish_and_record(
    device: DeviceState, path: Path, bundle: VerifiedBundle, data: bytes | memoryview
) -> int:
    """Finish what a crash left of earlier forgets, purge what came back; return the file's size.

    Args:
        device: The device's memory.
        path: The bundle's file.
        bundle: What this device may use of it.
        data: What is in the file.

    Raises:
        StorageError: The disk refused; the next open tries again.
    """
    # In a bundle that came later than the forget. One that is known, as a restored backup, is
    # erased without more ado: its tombstone and its receipt are there.
    known = device.memory.absences[bundle.place.statement]
    if back := [entry for entry in bundle.purged if entry[1] not in known]:
        orders = {class_id: device.memory.order_of(class_id) for class_id, _ in back}
        device.append(*tombstones(device, bundle, back, orders))
    left = finish(path)
    purged = {class_id for class_id, _ in bundle.purged}
    done: OldBytes | None = None
    if purged:
        data = bundle.to_bytes()
        done = replace_erasing(path, data)

    def deed(class_id: ClassId) -> OldBytes:
        # A crash may have come after the erasure and before its record.
        found = done if class_id in purged else left
        return found or old_bytes("unknown", path)

    record_erased(device, bundle, data, deed)
    return len(data)


def record_erased(
    device: DeviceState,
    bundle: VerifiedBundle,
    data: bytes | memoryview,
    deed: Callable[[ClassId], OldBytes],
) -> None:
    """Append ``erased`` for every tombstone of the bundle's statement that waits for it.

    Args:
        device: The device's memory.
        bundle: The bundle without these classes.
        data: Its file.
        deed: What was done to the old bytes of a class.

    Raises:
        StorageError: The disk refused, and nothing changed.
    """
    waiting = device.memory.pending.get(bundle.place.statement, ())
    if not waiting:
        return
    digest = hashlib.sha256(data).hexdigest()
    device.append(
        *(
            ErasedRecord(
                class_id=each.class_id,
                model_id=each.model_id,
                statement=each.statement,
                entry_digest=each.entry_digest,
                tombstone=each.number,
                order=each.order,
                bundle=digest,
                old_bytes=deed(each.class_id),
                device=device.device,
                software=software(),
                moment=device.moment(),
            )
            for each in waiting
        )
    )


def software() -> str:
    """Return name and version of this software, as records and requests state it."""
    try:
        return f"{_DISTRIBUTION} {version(_DISTRIBUTION)}"
    except PackageNotFoundError:  # run from a source tree that was never installed
        return f"{_DISTRIBUTION} unknown"
