"""The ledger's bytes: what a power cut, a flipped bit or a newer version leaves is told apart."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pfm_edge_runtime.errors import PfmEdgeError, StateError, StateMissingError
from pfm_edge_runtime.state import DeviceState, examine_ledger, repair_ledger
from pfm_edge_runtime.state._ledger import NOTHING, START, encode, read
from tests.support.remembered import (
    class_id,
    entry,
    erased,
    install,
    new_state,
    statement,
    tombstone,
)


@pytest.fixture
def state(tmp_path: Path) -> DeviceState:
    return new_state(tmp_path / "state", install(), tombstone(1), tombstone(2))


@pytest.fixture
def ledger(state: DeviceState) -> Path:
    return state.directory / "ledger.jsonl"


@pytest.fixture
def good(ledger: Path) -> bytes:
    return ledger.read_bytes()


def test_the_bytes_of_a_line() -> None:
    covered = (
        b'{"kind":"tombstone","number":7,"previous":"' + b"0" * 64 + b'","record":{'
        b'"class_id":"00000000000000000000000000000005","clock":"synchronized",'
        b'"entry_digest":"' + b"0" * 63 + b'5","model_id":"sha256:' + b"ab" * 32 + b'",'
        b'"order":null,"statement":"' + b"0" * 63 + b'1","time":"2026-11-24T10:00:00Z"}'
    )
    digest = sha256(covered).hexdigest().encode()
    line = encode(tombstone(5), number=7, previous=NOTHING)
    assert line == covered + b',"sha256":"' + digest + b'"}\n'


def test_each_record_names_the_one_before(ledger: Path) -> None:
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["init", "install", "tombstone", "tombstone"]
    assert [line["number"] for line in lines] == [1, 2, 3, 4]
    assert [line["previous"] for line in lines] == [NOTHING, *(e["sha256"] for e in lines[:-1])]


def test_a_torn_tail_at_every_byte(ledger: Path) -> None:
    whole = ledger.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for cut in range(start, len(whole)):
        ledger.write_bytes(whole[:cut])
        state = DeviceState.open(ledger.parent)
        assert set(state.memory.tombstones) == {class_id(1)}, cut
        assert examine_ledger(ledger.parent).torn_bytes == cut - start
        if cut % 16:
            continue
        with state.exclusive():
            state.append(tombstone(3))
        assert set(DeviceState.open(ledger.parent).memory.tombstones) == {class_id(1), class_id(3)}
        assert ledger.read_bytes()[:start] == whole[:start]
        assert not examine_ledger(ledger.parent).problems


@pytest.mark.parametrize("lost", ["beginning", "middle", "all but the end"])
def test_a_last_line_that_ends_but_lost_a_block(ledger: Path, lost: str) -> None:
    whole = ledger.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    first, last = {
        "beginning": (start, start + 100),
        "middle": (start + 200, start + 300),
        "all but the end": (start, len(whole) - 1),
    }[lost]
    ledger.write_bytes(whole[:first] + bytes(last - first) + whole[last:])
    state = DeviceState.open(ledger.parent)
    assert set(state.memory.tombstones) == {class_id(1)}
    with state.exclusive():
        state.append(tombstone(3))
    assert set(DeviceState.open(ledger.parent).memory.tombstones) == {class_id(1), class_id(3)}


def test_zeros_behind_the_last_line(ledger: Path) -> None:
    with ledger.open("ab") as file:
        file.write(bytes(4096))
    assert set(DeviceState.open(ledger.parent).memory.tombstones) == {class_id(1), class_id(2)}
    assert examine_ledger(ledger.parent).torn_bytes == 4096


def test_a_flipped_bit_anywhere_before_the_last_line(ledger: Path) -> None:
    whole = ledger.read_bytes()
    for offset in range(0, whole[:-1].rindex(b"\n"), 11):
        damaged = bytearray(whole)
        damaged[offset] ^= 4
        ledger.write_bytes(damaged)
        with pytest.raises(StateError, match=r"ledger\.jsonl: line [123] .*doctor --repair"):
            DeviceState.open(ledger.parent)


@pytest.mark.parametrize(
    ("order", "line"), [([0, 2, 3], 2), ([0, 2, 1, 3], 2), ([0, 1, 1, 2, 3], 3), ([1, 2, 3], 1)]
)
def test_lines_that_are_missing_swapped_or_there_twice(
    ledger: Path, order: list[int], line: int
) -> None:
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[each] for each in order))
    with pytest.raises(StateError, match=f"line {line} .*does not follow record"):
        DeviceState.open(ledger.parent)


def test_a_repair_keeps_what_is_intact_and_what_is_legible(ledger: Path) -> None:
    whole = ledger.read_bytes()
    at = whole.index(b'"clock"', whole.index(b'"kind":"tombstone"'))
    ledger.write_bytes(whole[:at] + b"#" + whole[at + 1 :])
    with pytest.raises(StateError, match="line 3"):
        DeviceState.open(ledger.parent)
    repair = repair_ledger(ledger.parent)
    assert repair is not None
    assert repair.forgotten == (class_id(1),)
    assert ledger.read_bytes().startswith(whole[:at] + b"#" + whole[at + 1 :])
    memory = DeviceState.open(ledger.parent).memory
    assert set(memory.tombstones) == {class_id(1), class_id(2)}
    assert statement(1) not in memory.absences  # learnt once more, when the bundle is next opened
    assert repair_ledger(ledger.parent) is None


def test_a_repair_vouches_for_these_bytes_only(ledger: Path) -> None:
    data = bytearray(ledger.read_bytes())
    data[-300 - data[::-1].index(b"\n", 1)] ^= 1  # in the third line
    ledger.write_bytes(data)
    assert repair_ledger(ledger.parent) is not None
    repaired = bytearray(ledger.read_bytes())
    repaired[data.index(b'"kind":"install"')] ^= 1
    ledger.write_bytes(repaired)
    with pytest.raises(StateError, match="line 2"):
        DeviceState.open(ledger.parent)


def test_a_repair_of_missing_records(ledger: Path) -> None:
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([lines[0], lines[1], lines[3]]))
    assert repair_ledger(ledger.parent) is not None
    state = DeviceState.open(ledger.parent)
    assert set(state.memory.tombstones) == {class_id(2)}
    with state.exclusive():
        (record,) = state.append(tombstone(3))
    assert record.number == 6
    assert set(DeviceState.open(ledger.parent).memory.tombstones) == {class_id(2), class_id(3)}


def test_a_repair_of_the_first_record_says_anew_whose_memory_it_is(ledger: Path) -> None:
    data = bytearray(ledger.read_bytes())
    data[20] ^= 1
    ledger.write_bytes(data)
    assert repair_ledger(ledger.parent) is not None
    state = DeviceState.open(ledger.parent)
    assert state.device == state.signing_key().key_id
    assert set(state.memory.tombstones) == {class_id(1), class_id(2)}


def test_every_line_that_verifies_by_itself_counts(ledger: Path) -> None:
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([lines[0], lines[3], b"garbage\n", lines[2], lines[1]]))
    assert repair_ledger(ledger.parent) is not None
    memory = DeviceState.open(ledger.parent).memory
    assert set(memory.tombstones) == {class_id(1), class_id(2)}
    assert not memory.absences


def _signed(fields: dict[str, object], number: int, previous: str) -> bytes:
    """A line that verifies, whatever it says."""
    value = {"number": number, "previous": previous, **fields}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))[:-1].encode()
    return text + b',"sha256":"' + sha256(text).hexdigest().encode() + b'"}\n'


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"kind": "recall", "record": {}}, "kind recall is unknown: a newer"),
        ({"kind": "init", "record": {"format": "pfm-ledger/2"}}, "a newer pfm-edge-runtime"),
        ({"kind": "tombstone", "record": {}}, "field class_id is missing"),
        ({"kind": "tombstone", "record": {"class_id": "daisy"}}, "field model_id is missing"),
        ({"kind": "repair", "record": {"damage": {}, "forgotten": []}}, "damage is no array"),
        ({"kind": "init", "record": {"a": [[[[[[1]]]]]]}}, "nested deeper"),
        ({"kind": "init", "record": {"a": 1.5}}, "fraction"),
        ({"kind": "install", "record": {}, "extra": 1}, "line 5 .* newer"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["kind"],
)
def test_a_record_that_verifies_but_cannot_be_used(
    ledger: Path, fields: dict[str, object], complaint: str
) -> None:
    last = json.loads(ledger.read_bytes().splitlines()[-1])
    with ledger.open("ab") as file:
        file.write(_signed(fields, 5, last["sha256"]))
    with pytest.raises(StateError, match=complaint) as caught:
        DeviceState.open(ledger.parent)
    assert "\n" not in str(caught.value)
    assert "daisy" not in str(caught.value)


def test_no_ledger_no_state(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StateMissingError, match="pfm-device init"):
            DeviceState.open(directory)
        with pytest.raises(StateMissingError):
            repair_ledger(directory)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\n", bytes(5000)])
def test_an_emptied_ledger_is_no_fresh_start(ledger: Path, content: bytes) -> None:
    ledger.write_bytes(content)
    with pytest.raises(StateError, match="backup") as caught:
        DeviceState.open(ledger.parent)
    assert not isinstance(caught.value, StateMissingError)
    with pytest.raises(StateError):
        DeviceState.create(ledger.parent, trust=None, bind=False)
    assert ledger.read_bytes() == content


def test_a_ledger_that_is_no_file(ledger: Path) -> None:
    ledger.unlink()
    ledger.mkdir()
    with pytest.raises(StateError, match="cannot be read"):
        DeviceState.open(ledger.parent)


def test_reading_on_equals_reading_anew(ledger: Path, state: DeviceState) -> None:
    with state.exclusive():
        state.append(erased(1, state.device), install(2, place=(1, 2), absent=(entry(9),)))
    data = ledger.read_bytes()
    whole = read([data], START)
    for cut in range(0, len(data), 97):
        first = read([data[:cut]], START)
        second = read([data[first.end.offset :]], first.end)
        assert first.lines.seen + second.lines.seen == whole.lines.seen
        assert first.lines.texts + second.lines.texts == whole.lines.texts
        assert second.end == whole.end
        assert read([data[:cut], data[cut:]], START) == whole


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # every example writes it anew
)
@given(data=st.data())
def test_whatever_the_ledger_holds(ledger: Path, good: bytes, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(good)))
    skip = data.draw(st.integers(0, 700))
    lines = st.sampled_from(good.splitlines(keepends=True))
    piece = data.draw(st.one_of(st.binary(max_size=9), lines, st.just(b"[" * 9), st.just(b"\n")))
    ledger.write_bytes(good[:begin] + piece + good[begin + skip :])
    assert "\n" not in _complaint(lambda: DeviceState.open(ledger.parent))
    complaint = _complaint(lambda: (repair_ledger(ledger.parent), DeviceState.open(ledger.parent)))
    if complaint:  # nothing is left to go on with
        assert "backup" in complaint
        return
    # Whatever line is whole still counts.
    memory, text = DeviceState.open(ledger.parent).memory, ledger.read_bytes()
    for line in good.splitlines(keepends=True)[2:]:
        if b"\n" + line in text:
            assert json.loads(line)["record"]["class_id"] in memory.tombstones


def _complaint(operation: Callable[[], object]) -> str:
    """Run it; return our own exception's text, empty if there was none."""
    try:
        operation()
    except PfmEdgeError as error:
        return str(error)
    return ""
