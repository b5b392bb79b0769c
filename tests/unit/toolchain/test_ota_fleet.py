"""What enrolled devices stated: counted, and what must not be counted set apart."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import pytest

from pfm_edge.ota import (
    FleetStatus,
    OrderRequest,
    enrol,
    enrolled_devices,
    fleet_page,
    fleet_status,
    forget,
    publish,
    repository_state,
    retire,
)
from pfm_edge.registry import change_registry
from pfm_edge_runtime.bundle import ClassId, EntryDigest, StatementDigest
from pfm_edge_runtime.erasure import OldBytes
from pfm_edge_runtime.errors import ConfigError, KeyFileError, StorageError
from pfm_edge_runtime.keys import SigningKey, public_to_pem
from pfm_edge_runtime.receipts import make_receipt
from pfm_edge_runtime.state import AbsentRecord, DeviceState, ErasedRecord, Moment
from tests.support.publisher import CLASS_IDS, Publisher
from tests.support.tiny_package import MODEL_ID

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

ROSE, TULIP = CLASS_IDS["rose"], CLASS_IDS["tulip"]


@dataclass
class Device:
    """A device's key, and the receipts that it signs with it."""

    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def device(self) -> str:
        return self.key.key_id

    def signing_key(self) -> SigningKey:
        return self.key

    def confirm(self) -> None:
        pass

    def states(
        self,
        class_id: ClassId,
        number: int,
        *,
        time: str = "2026-11-24T10:00:00Z",
        clock: str = "synchronized",
        outcome: str = "erased",
        head: str = "",
    ) -> str:
        moment = Moment(time, clock)  # type: ignore[arg-type]
        common = {
            "class_id": class_id,
            "model_id": MODEL_ID,
            "bundle": "cd" * 32,
            "device": self.device,
            "software": "tests 1",
            "moment": moment,
            "number": number,
            "digest": head or f"{number:064x}",
        }
        if outcome == "absent":
            record: AbsentRecord | ErasedRecord = AbsentRecord(**common)  # type: ignore[arg-type]
        else:
            record = ErasedRecord(
                **common,  # type: ignore[arg-type]
                statement=StatementDigest("ab" * 32),
                entry_digest=EntryDigest("ef" * 32),
                tombstone=1,
                old_bytes=OldBytes("overwritten", "ext4", in_place=True),
            )
        return make_receipt(record, cast(DeviceState, self))


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher.make(tmp_path)
    (tmp_path / "receipts").mkdir()
    return made


def _enrolled(publisher: Publisher, count: int) -> list[Device]:
    devices = [Device() for _ in range(count)]
    files = []
    for each in devices:
        path = publisher.directory / f"{each.device}.pub"
        path.write_bytes(public_to_pem(each.key.public))
        files.append(path)
    assert enrol(publisher.repository, files) == tuple(each.device for each in devices)
    return devices


def _status(publisher: Publisher, *receipts: str, **options: timedelta) -> FleetStatus:
    folder = publisher.directory / "receipts"
    for number, text in enumerate(receipts):
        (folder / f"{number}.json").write_text(text)
    return fleet_status(publisher.repository, folder, **options)


def test_devices_that_stated_every_class_of_an_order_are_counted(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose", "tulip"], order=OrderRequest("7"))
    whole, absent, half, silent = _enrolled(publisher, 4)
    status = _status(
        publisher,
        whole.states(ROSE, 4),
        whole.states(TULIP, 6),
        absent.states(ROSE, 2, outcome="absent"),
        absent.states(TULIP, 3, outcome="absent"),
        half.states(TULIP, 4),
    )
    [order] = status.orders
    assert (order.order_id, order.class_ids) == ("7", tuple(sorted((ROSE, TULIP))))
    assert {*order.stated} == {whole.device, absent.device}
    assert order.erased == 1
    assert {*order.waiting} == {half.device, silent.device}
    assert order.late == ()
    assert status.enrolled == 4


def test_a_device_is_late_some_days_after_the_order(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"])
    [silent] = _enrolled(publisher, 1)
    publisher.clock.forward(6)
    assert _status(publisher).orders[0].late == ()
    assert _status(publisher, late_after=timedelta(days=5)).orders[0].late == (silent.device,)
    publisher.clock.forward(2)
    assert _status(publisher).orders[0].late == (silent.device,)


def test_orders_are_told_apart(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"], order=OrderRequest("1"))
    publisher.clock.forward(10)
    forget(publisher.repository, ["tulip"], order=OrderRequest("2"))
    [device] = _enrolled(publisher, 1)
    first, second = _status(publisher, device.states(TULIP, 4)).orders
    assert (first.order_id, first.late) == ("1", (device.device,))
    assert (second.order_id, second.stated) == ("2", (device.device,))


def test_a_device_that_nobody_enrolled_is_not_counted(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"])
    _enrolled(publisher, 1)
    stranger = Device()
    status = _status(publisher, stranger.states(ROSE, 4), stranger.states(TULIP, 5))
    assert status.orders[0].stated == ()
    assert status.receipts.unknown == {stranger.device: 2}


def test_a_receipt_that_came_twice_counts_once(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"])
    [device] = _enrolled(publisher, 1)
    status = _status(publisher, *[device.states(ROSE, 4)] * 3)
    assert status.orders[0].stated == (device.device,)
    assert len(status.orders[0].statements) == 1
    assert (status.receipts.repeated, status.receipts.doubtful) == (2, frozenset())


def test_two_machines_with_one_key_are_set_apart(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"])
    [device] = _enrolled(publisher, 1)
    status = _status(publisher, device.states(ROSE, 4), device.states(ROSE, 4, head="aa" * 32))
    assert status.receipts.duplicated == (device.device,)
    [order] = status.orders
    assert (order.stated, order.late, order.doubtful) == ((), (), (device.device,))


@pytest.mark.parametrize(
    ("later", "clock", "regressed"),
    [
        pytest.param(4, "synchronized", True, id="a lower number later"),
        pytest.param(4, "behind", False, id="by a clock that was set back"),
        pytest.param(4, "unsynchronized", False, id="a clock that nobody has set"),
        pytest.param(6, "synchronized", False, id="a higher number later"),
    ],
)
def test_a_ledger_that_went_back_is_set_apart(
    publisher: Publisher, later: int, clock: str, regressed: bool
) -> None:
    forget(publisher.repository, ["rose"])
    [device] = _enrolled(publisher, 1)
    status = _status(
        publisher,
        device.states(TULIP, 5, time="2026-11-24T10:00:00Z"),
        device.states(ROSE, later, time="2026-11-25T10:00:00Z", clock=clock),
    )
    assert bool(status.receipts.regressed) is regressed
    assert bool(status.orders[0].stated) is not regressed


def test_records_of_one_second_do_not_go_back(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"])
    [device] = _enrolled(publisher, 1)
    status = _status(publisher, device.states(ROSE, 5), device.states(TULIP, 4))
    assert status.receipts.regressed == ()


def test_what_is_no_receipt_is_named(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"])
    [device] = _enrolled(publisher, 1)
    good = device.states(ROSE, 4)
    altered = json.loads(good)
    altered["payload"] = altered["payload"][:-4] + "AAAA"
    borrowed = json.loads(Device().states(ROSE, 4))
    borrowed["signatures"][0]["public"] = device.key.public.hex()
    borrowed["signatures"][0]["keyid"] = device.device
    texts = [altered, borrowed]
    dumped = [json.dumps(each, separators=(",", ":"), sort_keys=True) for each in texts]
    status = _status(publisher, *dumped, "{}", "", "x" * 200_000)
    assert {*status.receipts.unreadable} == {f"{number}.json" for number in range(5)}
    assert status.orders[0].stated == ()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: "\ufeff" + text, id="a byte order mark"),
        pytest.param(lambda text: json.dumps(json.loads(text), indent=2), id="indented anew"),
        pytest.param(lambda text: text.replace("=", "\\u003d"), id="escaped anew"),
    ],
)
def test_a_receipt_that_was_written_anew_on_its_way_is_said_to_be(
    publisher: Publisher, change: Callable[[str], str]
) -> None:
    forget(publisher.repository, ["rose"])
    [device] = _enrolled(publisher, 1)
    status = _status(publisher, change(device.states(ROSE, 4)))
    assert status.orders[0].stated == ()
    [reason] = status.receipts.unreadable.values()
    assert "was changed on its way: it must be the very bytes that the device sent" in reason


def test_receipts_below_the_folder_count_and_temporary_files_do_not(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"])
    [device] = _enrolled(publisher, 1)
    inner = publisher.directory / "receipts" / "site-1"
    inner.mkdir()
    (inner / "a.json").write_text(device.states(ROSE, 4))
    (inner / ".b.json.tmp").write_text("half")
    status = _status(publisher)
    assert status.orders[0].stated == (device.device,)
    assert status.receipts.unreadable == {}


def test_a_folder_that_is_missing_is_an_error(publisher: Publisher) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        fleet_status(publisher.repository, publisher.directory / "nowhere")


def test_devices_are_enrolled_once_and_retired(publisher: Publisher) -> None:
    first, second = _enrolled(publisher, 2)
    path = publisher.directory / f"{first.device}.pub"
    assert enrol(publisher.repository, [path]) == (first.device,)
    assert {*enrolled_devices(publisher.repository)} == {first.device, second.device}
    assert retire(publisher.repository, [first.device[:16]]) == (first.device,)
    assert {*enrolled_devices(publisher.repository)} == {second.device}
    with pytest.raises(ConfigError, match="no device is enrolled"):
        retire(publisher.repository, [first.device])
    with pytest.raises(KeyFileError, match="no such file"):
        enrol(publisher.repository, [publisher.directory / "nothing.pub"])


def test_a_class_that_was_forgotten_here_alone_is_said_to_be_overdue(publisher: Publisher) -> None:
    publish(publisher.repository, publisher.package())
    change_registry(publisher.registry, lambda known: known.without([ROSE]))
    assert repository_state(publisher.repository).overdue == (ROSE,)
    forget(publisher.repository, [ROSE])
    assert repository_state(publisher.repository).overdue == ()


# --- the page -----------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Reads a page: balanced tags, no script, nothing from elsewhere."""

    _VOID = frozenset({"meta", "br"})

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "img", "iframe", "base", "form"}
        assert not {name for name, _ in attrs} & {"src", "href", "onclick"}
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_first_what_a_receipt_is_worth(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"], order=OrderRequest("2026/17"))
    stated, silent = _enrolled(publisher, 2)
    status = _status(publisher, stated.states(ROSE, 4), Device().states(ROSE, 9), "<b>&")
    page = fleet_page(status)
    text = " ".join(_Page(page).text.split())
    worth = text.index("It is no proof")
    assert worth < text.index("2026/17")
    for expected in ("1 of 2", stated.device, silent.device, ROSE, "Unknown", "2.json"):
        assert expected in text
    assert b"rose" not in page


def test_the_page_of_a_quiet_repository_is_whole(publisher: Publisher) -> None:
    text = _Page(fleet_page(_status(publisher))).text
    assert "no class was ordered to be forgotten yet" in text
    assert "Nothing." in text


def test_words_from_outside_are_text_on_the_page(publisher: Publisher) -> None:
    for name in ("<script>x<.json", os.fsdecode(b"\xff.json"), "\u202enosj.\x1b[2J.JSON"):
        (publisher.directory / "receipts" / name).write_text("{}")
    text = _Page(fleet_page(_status(publisher))).text
    assert "<script>x<.json" in text
    assert "\\udcff.json" in text
    assert "\\u202enosj.\\x1b[2J.JSON" in text  # it neither turns its line around nor steers


def test_the_json_holds_every_statement(publisher: Publisher) -> None:
    forget(publisher.repository, ["rose"], order=OrderRequest("7"))
    [device] = _enrolled(publisher, 1)
    found = json.loads(json.dumps(_status(publisher, device.states(ROSE, 4)).as_dict()))
    [order] = found["orders"]
    assert order["stated"] == [device.device]
    assert order["statements"] == [
        {
            "device": device.device,
            "class_id": ROSE,
            "outcome": "erased",
            "time": "2026-11-24T10:00:00Z",
            "clock": "synchronized",
            "ledger_number": 4,
            "order_id": None,
            "file": "0.json",
        }
    ]
    assert "no proof" in found["worth"]
