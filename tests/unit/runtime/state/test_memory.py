"""What the ledger amounts to: tombstones, floors, absences, pins, and what is still to be done."""

from pathlib import Path

import pytest

from pfm_edge_runtime.bundle import Place, TrustedKeys
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.state import DeviceState, Memory, Order, Record
from tests.support.remembered import (
    MODEL,
    class_id,
    entry,
    erased,
    fixed_clock,
    install,
    issuer,
    new_state,
    statement,
    tombstone,
)

OTHER = ModelId("sha256:" + "ef" * 32)


def _remember(directory: Path, *records: Record) -> Memory:
    """Remember one by one; whoever reads it all at once must come to the same."""
    state = new_state(directory)
    for record in records:
        with state.exclusive():
            state.append(record)
    memory = state.memory
    assert DeviceState.open(directory, clock=fixed_clock).memory == memory
    return memory


def test_a_tombstone_counts_from_its_first_record_on(tmp_path: Path) -> None:
    memory = _remember(tmp_path / "s", install(), tombstone(1), tombstone(2), tombstone(1, 2))
    assert memory.tombstones == {class_id(1): 3, class_id(2): 4}
    assert memory.number == 5


def test_the_floor_is_the_highest_place_of_each_model(tmp_path: Path) -> None:
    memory = _remember(
        tmp_path / "s",
        install(1, place=(2, 9)),
        install(2, place=(3, 1)),
        install(3, place=(2, 10)),
        install(4, place=(1, 1), model=OTHER),
    )
    assert memory.floors == {MODEL: Place(3, 1, statement(2)), OTHER: Place(1, 1, statement(4))}


def test_absences_are_what_was_missing_and_what_was_forgotten(tmp_path: Path) -> None:
    memory = _remember(
        tmp_path / "s",
        install(1, absent=(entry(7), entry(8))),
        tombstone(1),
        install(2, place=(1, 2)),
        tombstone(2, listed_by=3),
    )
    assert memory.absences == {
        statement(1): {entry(1), entry(7), entry(8)},
        statement(2): set(),
    }


def test_pins_are_the_signers_of_the_first_signed_install(tmp_path: Path) -> None:
    first, second = issuer(), issuer()
    state = new_state(tmp_path / "s")
    assert state.memory.trust_for(MODEL, None) is None
    steps = [
        (install(1), TrustedKeys(0, frozenset())),
        (install(2, signers=(first, second)), TrustedKeys(2, frozenset({first, second}))),
        (install(3, signers=(second,)), TrustedKeys(2, frozenset({first, second}))),
    ]
    for record, expected in steps:
        with state.exclusive():
            state.append(record)
        assert state.memory.trust_for(MODEL, None) == expected
    assert state.memory.trust_for(OTHER, None) is None
    managed = TrustedKeys(1, frozenset({issuer()}))
    assert state.memory.trust_for(MODEL, managed) == managed


def test_what_is_pending_waits_for_its_own_statement(tmp_path: Path) -> None:
    order = Order("ticket-17", "12" * 32)
    memory = _remember(
        tmp_path / "s",
        install(),
        tombstone(1, order=order),
        tombstone(2),
        tombstone(1, listed_by=2),
        erased(1, "00" * 32, of=3),
    )
    assert {key: [each.class_id for each in value] for key, value in memory.pending.items()} == {
        statement(1): [class_id(2)],
        statement(2): [class_id(1)],
    }
    assert memory.pending[statement(1)][0].number == 4
    record = memory.erased(class_id(1), statement(1))
    assert record is not None
    assert record.tombstone == 3
    assert memory.erased(class_id(1)) == record
    assert memory.erased(class_id(1), statement(2)) is None
    assert memory.erased(class_id(2)) is None
    assert list(memory.erasures()) == [record]


def test_erased_again_gives_the_first_record(tmp_path: Path) -> None:
    memory = _remember(
        tmp_path / "s", install(), tombstone(1), *[erased(1, "00" * 32, of=3)] * 2, tombstone(1)
    )
    record = memory.erased(class_id(1))
    assert record is not None
    assert record.number == 4
    assert memory.pending == {}


def test_an_erased_record_stands_for_a_tombstone_that_damage_took(tmp_path: Path) -> None:
    memory = _remember(tmp_path / "s", install(), erased(1, "00" * 32, of=9))
    assert memory.tombstones == {class_id(1): 9}
    assert memory.absences == {statement(1): {entry(1)}}


def test_a_memory_cannot_be_changed(tmp_path: Path) -> None:
    memory = _remember(tmp_path / "s", install(), tombstone(1))
    with pytest.raises(TypeError):
        memory.tombstones[class_id(1)] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        memory.number = 0  # type: ignore[misc]
