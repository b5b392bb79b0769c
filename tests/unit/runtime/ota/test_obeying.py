"""A forget list holds, whatever state the device and its package are in."""

import os
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import PackageError, StorageError
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.keys import public_from_pem
from pfm_edge_runtime.opening import install_bundle, open_model
from pfm_edge_runtime.ota._obeying import Obeyed, obey
from pfm_edge_runtime.ota.forget_list import ForgetList, ForgetRow
from pfm_edge_runtime.receipts import make_receipt, verify_receipt
from pfm_edge_runtime.state import AbsentRecord, DeviceState, ErasedRecord
from tests.support.failing_disk import faults_of
from tests.support.tiny_package import TinyPackage, build_bundle, quarter, write_tiny_package

NOW = "2026-11-24T10:00:00Z"
ELSEWHERE = ClassId("ee" * 16)


def listing(*class_ids: ClassId) -> ForgetList:
    rows = tuple(ForgetRow(each, f"o-{each[-3:]}", "request", NOW) for each in sorted(class_ids))
    return ForgetList(1, NOW, rows, "ab" * 32)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    made = write_tiny_package(tmp_path / "model")
    open_model(made.directory)
    return made


@pytest.fixture
def state(tiny: TinyPackage, device_state: Path) -> DeviceState:
    return DeviceState.open(device_state)


def _said(state: DeviceState) -> list[tuple[str, str | None]]:
    """Return outcome and order of every receipt, each verified."""
    public = public_from_pem((state.directory / "device.pub").read_bytes())
    found = [
        verify_receipt(make_receipt(each, state), public) for each in state.refresh().receipts()
    ]
    return [(each.outcome, each.record.order.id if each.record.order else None) for each in found]


def test_what_is_here_is_erased_and_what_is_not_can_never_come(
    tiny: TinyPackage, state: DeviceState
) -> None:
    rose = tiny.class_id("rose")
    assert obey(tiny.directory, state, listing(rose, ELSEWHERE)) == Obeyed(1, 2, 1, 1)
    assert _said(state) == [("absent", "o-eee"), ("erased", f"o-{rose[-3:]}")]
    record = state.memory.absent(ELSEWHERE)
    assert record is not None
    assert record.bundle is not None
    assert record.order is not None
    assert record.order.digest == "ab" * 32
    assert rose not in {each.class_id for each in Classifier.open(tiny.directory).classes}
    before = state.memory.number
    assert obey(tiny.directory, state, listing(rose, ELSEWHERE)) == Obeyed(1, 2, 0, 0)
    assert state.memory.number == before


def test_a_list_before_the_bundle_that_has_the_class(tmp_path: Path, device_state: Path) -> None:
    tiny = write_tiny_package(tmp_path / "model", classes=2)
    open_model(tiny.directory)
    state = DeviceState.open(device_state)
    later = build_bundle(tiny.manifest.to_bytes(), sequence=2)
    tulip = later.class_ids[later.labels.index("tulip")]
    assert obey(tiny.directory, state, listing(tulip)).absent == 1
    opened = install_bundle(tiny.directory, later.to_bytes(), state=state)
    assert set(opened.bundle.labels) == {"daisy", "rose", "violet"}
    # And where somebody puts it there by hand: it is erased, for whoever ordered it.
    tiny.bundle_path.write_bytes(build_bundle(tiny.manifest.to_bytes(), sequence=3).to_bytes())
    assert tulip not in open_model(tiny.directory).bundle.class_ids
    assert _said(state) == [("absent", f"o-{tulip[-3:]}"), ("erased", f"o-{tulip[-3:]}")]


def test_a_class_that_was_forgotten_before_has_its_receipt(
    tiny: TinyPackage, state: DeviceState
) -> None:
    rose = tiny.class_id("rose")
    forget_classes(tiny.directory, [rose])
    assert obey(tiny.directory, state, listing(rose)) == Obeyed(1, 1, 0, 0)
    assert _said(state) == [("erased", None)]


@pytest.mark.parametrize("damage", ["bundle", "no bundle", "manifest", "no package", "untrusted"])
def test_a_damaged_package_is_no_excuse(tiny: TinyPackage, state: DeviceState, damage: str) -> None:
    rose, whole = tiny.class_id("rose"), tiny.bundle_path.read_bytes()
    manifest = (tiny.directory / "manifest.json").read_bytes()
    if damage == "bundle":
        tiny.bundle_path.write_bytes(whole[:-4])
    elif damage == "no bundle":
        tiny.bundle_path.unlink()
    elif damage == "manifest":
        (tiny.directory / "manifest.json").write_bytes(b"{}")
    elif damage == "no package":
        tiny.directory.rename(tiny.directory.with_name("gone"))
    found = obey(
        tiny.directory, state, listing(rose, ELSEWHERE), require_state=damage == "untrusted"
    )
    assert found == Obeyed(1, 2, 0, 2)
    assert _said(state) == []  # nobody looked, so nobody states anything
    assert state.memory.tombstones.keys() == {rose, ELSEWHERE}
    assert state.memory.unseen == {rose, ELSEWHERE}
    # Once it is there again, the class is purged and erased, and the other one is looked for.
    if damage == "no package":
        tiny.directory.with_name("gone").rename(tiny.directory)
    (tiny.directory / "manifest.json").write_bytes(manifest)
    tiny.bundle_path.write_bytes(whole)
    assert rose not in open_model(tiny.directory).bundle.class_ids
    obey(tiny.directory, state, listing(rose, ELSEWHERE))
    assert _said(state) == [("erased", f"o-{rose[-3:]}"), ("absent", "o-eee")]
    assert not state.memory.unseen


def test_a_running_model_follows_at_once(tiny: TinyPackage, state: DeviceState) -> None:
    model = Classifier.open(tiny.directory)
    assert model.predict(quarter(1)).label == "rose"
    obey(tiny.directory, state, listing(tiny.class_id("rose")))
    assert "rose" not in {each.label for each in model.classes}
    assert model.predict(quarter(1)).label != "rose"


def test_a_thousand_rows_cost_a_few_syncs(
    tiny: TinyPackage, state: DeviceState, device_state: Path
) -> None:
    unknown = [ClassId(f"{number:032x}") for number in range(10_000, 11_000)]
    found = listing(tiny.class_id("rose"), *unknown)
    with mock.patch.object(os, "fsync", side_effect=os.fsync) as synced:
        assert obey(tiny.directory, state, found) == Obeyed(1, 1001, 1, 1000)
    assert synced.call_count < 20
    again = DeviceState.open(device_state)
    assert len(again.memory.tombstones) == 1001
    assert len(list(again.memory.receipts())) == 1001
    assert again.memory.head == state.memory.head
    assert (device_state / "ledger.jsonl").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in device_state.iterdir() if each.name.endswith(".tmp")] == []


@pytest.mark.parametrize("count", [1, 30])
def test_a_disk_that_fails_leaves_all_or_nothing(tmp_path: Path, count: int) -> None:
    numbers = iter(range(10_000))
    class_ids = [ClassId(f"{number:032x}") for number in range(100_000, 100_000 + count)]

    def scene() -> tuple[TinyPackage, DeviceState]:
        root = tmp_path / str(next(numbers))
        tiny = write_tiny_package(root / "model")
        open_model(tiny.directory, state=root / "state")
        return tiny, DeviceState.open(root / "state")

    tiny, state = scene()
    faults = faults_of(
        lambda: obey(tiny.directory, state, listing(tiny.class_id("rose"), *class_ids))
    )
    assert len(faults) > 15
    for fault in faults:
        tiny, state = scene()
        found = listing(tiny.class_id("rose"), *class_ids)
        with fault.injected():
            refused = _refused(tiny, state, found)
        there = DeviceState.open(state.directory).memory.tombstones
        assert len(there) in {0, 1 + count}, fault
        if not there:
            assert refused, fault
        obey(tiny.directory, state, found)
        memory = DeviceState.open(state.directory).memory
        assert len(memory.tombstones) == 1 + count, fault
        open_model(tiny.directory, state=state)
        kinds = [type(each) for each in state.refresh().receipts()]
        assert (kinds.count(ErasedRecord), kinds.count(AbsentRecord)) == (1, count), fault


def _refused(tiny: TinyPackage, state: DeviceState, found: ForgetList) -> bool:
    try:
        return obey(tiny.directory, state, found).problem is not None
    except (StorageError, PackageError):
        return True


def test_two_models_of_one_device(tmp_path: Path, device_state: Path) -> None:
    first, second = (write_tiny_package(tmp_path / name) for name in ("one", "two"))
    for each in (first, second):
        open_model(each.directory)
    state, rose = DeviceState.open(device_state), first.class_id("rose")
    assert obey(first.directory, state, listing(rose)).applied == 1
    assert rose not in open_model(second.directory).bundle.class_ids
    traces: Sequence[bytes] = [
        first.bundle.tensors["prompt_values"][first.bundle.class_ids.index(rose)].tobytes()
    ]
    for each in (first, second):
        assert not any(trace in each.bundle_path.read_bytes() for trace in traces)
