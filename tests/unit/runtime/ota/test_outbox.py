"""Receipts on their way: made again from the ledger, sent in order, never lost."""

import os
import shutil
from pathlib import Path

import pytest

from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import FetchError
from pfm_edge_runtime.keys import public_from_pem
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.ota._outbox import OUTBOX_FOLDER, Outbox
from pfm_edge_runtime.ota._transport import MissingFileError, TryAgainError
from pfm_edge_runtime.receipts import verify_receipt
from pfm_edge_runtime.state import AbsentRecord, DeviceState
from tests.support.remembered import MODEL, MOMENT, class_id, new_state


def absent(state: DeviceState, *numbers: int) -> None:
    with state.exclusive():
        state.append(
            *(
                AbsentRecord(
                    class_id=class_id(number),
                    model_id=MODEL,
                    bundle="cd" * 32,
                    device=state.device,
                    software="pfm-edge-runtime 0.1.0",
                    moment=MOMENT,
                )
                for number in numbers
            )
        )


@pytest.fixture
def state(tmp_path: Path) -> DeviceState:
    made = new_state(tmp_path / "state")
    absent(made, 1, 2, 3, 4, 5)
    return made


@pytest.fixture
def cache(state: DeviceState) -> Cache:
    return Cache(state.updates_directory)


def _names(cache: Cache) -> list[str]:
    folder = cache.directory / OUTBOX_FOLDER
    return sorted(path.name for path in folder.iterdir() if path.name != "sent.json")


def _filled(cache: Cache, state: DeviceState) -> Outbox:
    outbox = Outbox(cache, state)
    outbox.fill()
    return outbox


def test_a_disk_that_takes_a_part_at_a_time_tears_no_receipt(
    cache: Cache, state: DeviceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, sent = os.write, dict[str, bytes]()
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:100]))
    _filled(cache, state).deliver(sent.__setitem__)
    public = public_from_pem((state.directory / "device.pub").read_bytes())
    assert [verify_receipt(each, public).outcome for each in sent.values()] == ["absent"] * 5


def test_what_is_sent_leaves_and_does_not_come_back(cache: Cache, state: DeviceState) -> None:
    outbox, sent = _filled(cache, state), {}
    assert _names(cache) == [f"{class_id(n)}-{n + 1}.json" for n in range(1, 6)]
    outbox.deliver(lambda name, text: sent.update({name: text}))
    assert (outbox.delivered, outbox.waiting, _names(cache)) == (5, 0, [])
    public = public_from_pem((state.directory / "device.pub").read_bytes())
    assert {verify_receipt(text, public).outcome for text in sent.values()} == {"absent"}
    assert _filled(cache, state).waiting == 0
    absent(state, 6)
    assert _filled(cache, state).waiting == 1
    # A wiped cache sends them again: the same texts.
    shutil.rmtree(state.updates_directory)
    again = {}
    _filled(cache, state).deliver(lambda name, text: again.update({name: text}))
    assert len(again) == 6
    assert sent.items() <= again.items()


@pytest.mark.parametrize("error", [TryAgainError("net"), MissingFileError("404")])
def test_what_fails_for_all_ends_it(cache: Cache, state: DeviceState, error: FetchError) -> None:
    outbox, sent = _filled(cache, state), []

    def send(name: str, text: bytes) -> None:
        if len(sent) == 2:
            raise error
        sent.append(name)

    with pytest.raises(FetchError):
        outbox.deliver(send)
    assert (outbox.delivered, outbox.waiting, len(_names(cache))) == (2, 3, 3)
    assert _filled(cache, state).waiting == 3


def test_one_that_nobody_takes_does_not_hold_up_the_others(
    cache: Cache, state: DeviceState
) -> None:
    bad = f"{class_id(2)}-3.json"

    def send(name: str, text: bytes) -> None:
        if name == bad:
            raise FetchError("status 400")

    outbox = _filled(cache, state)
    with pytest.raises(FetchError, match="400"):
        outbox.deliver(send)
    assert (outbox.delivered, outbox.waiting, _names(cache)) == (4, 1, [bad])
    again = _filled(cache, state)
    assert again.waiting == 1
    again.deliver(lambda name, text: None)
    assert _filled(cache, state).waiting == 0


def test_a_server_that_takes_none_is_asked_three_times(cache: Cache, state: DeviceState) -> None:
    asked = []

    def send(name: str, text: bytes) -> None:
        asked.append(name)
        raise FetchError("status 400")

    with pytest.raises(FetchError):
        _filled(cache, state).deliver(send)
    assert len(asked) == 3


def test_what_a_power_cut_tore_is_written_again(cache: Cache, state: DeviceState) -> None:
    _filled(cache, state)
    paths = [cache.directory / OUTBOX_FOLDER / name for name in _names(cache)]
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"\0" * len(whole[1]))
    paths[2].write_bytes(whole[2][:100])
    paths[3].unlink()
    (cache.directory / OUTBOX_FOLDER / "sent.json").write_bytes(b'{"through": 9}')
    _filled(cache, state)
    assert [path.read_bytes() for path in paths] == whole


def test_what_another_key_stated_is_not_stated_again(cache: Cache, state: DeviceState) -> None:
    _filled(cache, state)
    adopted = DeviceState.adopt(state.directory)
    assert _filled(cache, adopted).waiting == 0
    absent(adopted, 6)
    outbox, sent = _filled(cache, adopted), []
    outbox.deliver(lambda name, text: sent.append(name))
    assert sent == [f"{ClassId(class_id(6))}-8.json"]
