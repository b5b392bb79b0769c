"""Records and ledgers to test a device's memory with; every value is a function of a number."""

from pathlib import Path

from pfm_edge_runtime.bundle import ClassId, EntryDigest, StatementDigest
from pfm_edge_runtime.erasure import OldBytes
from pfm_edge_runtime.keys import PublicKey, SigningKey
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.state import (
    DeviceState,
    ErasedRecord,
    InstallRecord,
    Moment,
    Order,
    Record,
    TombstoneRecord,
)

MODEL = ModelId("sha256:" + "ab" * 32)
MOMENT = Moment("2026-11-24T10:00:00Z", "synchronized")


def fixed_clock(not_before: str | None) -> Moment:
    """A clock that stands still."""
    return MOMENT


def class_id(number: int) -> ClassId:
    return ClassId(f"{number:032x}")


def entry(number: int) -> EntryDigest:
    return EntryDigest(f"{number:064x}")


def statement(number: int) -> StatementDigest:
    return StatementDigest(f"{number:064x}")


def issuer() -> PublicKey:
    return SigningKey.generate().public


def install(
    number: int = 1,
    *,
    place: tuple[int, int] = (1, 1),
    absent: tuple[EntryDigest, ...] = (),
    signers: tuple[PublicKey, ...] = (),
    model: ModelId = MODEL,
) -> InstallRecord:
    return InstallRecord(
        model_id=model,
        statement=statement(number),
        epoch=place[0],
        sequence=place[1],
        absent=absent,
        signers=tuple(sorted(signers)),
        moment=MOMENT,
    )


def tombstone(number: int, listed_by: int = 1, order: Order | None = None) -> TombstoneRecord:
    return TombstoneRecord(
        class_id=class_id(number),
        model_id=MODEL,
        statement=statement(listed_by),
        entry_digest=entry(number),
        order=order,
        moment=MOMENT,
    )


def erased(number: int, device: str, listed_by: int = 1, of: int = 1) -> ErasedRecord:
    return ErasedRecord(
        class_id=class_id(number),
        model_id=MODEL,
        statement=statement(listed_by),
        entry_digest=entry(number),
        tombstone=of,
        bundle="cd" * 32,
        old_bytes=OldBytes("overwritten", "ext4", True),
        device=device,
        software="pfm-edge-runtime 0.1.0",
        moment=MOMENT,
    )


def new_state(directory: Path, *records: Record) -> DeviceState:
    """Make a state that holds these records behind its first one."""
    state = DeviceState.create(directory, trust=None, bind=False, clock=fixed_clock)
    with state.exclusive():
        state.append(*records)
    return state
