"""Forgetting on disk: all the classes of a request or none, and no name repeated."""

import threading
from pathlib import Path

import pytest

from pfm_edge_runtime.bundle import ClassId
from pfm_edge_runtime.errors import PackageError, UnknownClassError, VerificationError
from pfm_edge_runtime.forgetting import find_class, forget_classes, prepare_forget
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.opening import open_model
from pfm_edge_runtime.package import ModelPackage
from pfm_edge_runtime.state import DeviceState
from pfm_edge_runtime.store import exclusive
from tests.support.tiny_package import LABELS, TinyPackage, write_tiny_package


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def test_all_by_one_replacement(tiny: TinyPackage) -> None:
    ids = [tiny.class_id("rose"), tiny.class_id("daisy")]
    forgotten = forget_classes(tiny.directory, ["rose", ids[1], "daisy", ids[0]])
    assert [each.class_id for each in forgotten] == ids
    assert len({(each.bytes_before, each.bytes_after, each.seconds) for each in forgotten}) == 1
    assert tiny.bundle_path.read_bytes() == tiny.bundle.without(ids).to_bytes()


def test_one_unknown_name_and_nothing_changes(tiny: TinyPackage) -> None:
    before = tiny.bundle_path.read_bytes()
    with pytest.raises(UnknownClassError, match="name 2 of 3") as caught:
        forget_classes(tiny.directory, ["rose", "peonies", "daisy"])
    assert "peonies" not in str(caught.value)
    assert tiny.bundle_path.read_bytes() == before


def test_nothing_is_written_before_the_commit(tiny: TinyPackage) -> None:
    before = tiny.bundle_path.read_bytes()
    with prepare_forget(tiny.directory, ["rose"]) as pending:
        assert pending.class_ids == (tiny.class_id("rose"),)
        assert "rose" not in pending.remaining.labels
        assert tiny.bundle_path.read_bytes() == before
    assert tiny.bundle_path.read_bytes() == before
    assert sorted(path.name for path in tiny.directory.iterdir()) == [
        "backbone.onnx",
        "bundle.safetensors",
        "golden.safetensors",
        "manifest.json",
    ]


def test_a_second_forget_waits_for_the_first(tiny: TinyPackage) -> None:
    with prepare_forget(tiny.directory, ["rose"]) as pending:
        thread = threading.Thread(target=forget_classes, args=(tiny.directory, ["daisy"]))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        pending.commit()
    thread.join(30)
    assert sorted(ModelPackage.open(tiny.directory).bundle.labels) == ["tulip", "violet"]


def test_waits_for_whoever_holds_the_package_with_another_memory(tiny: TinyPackage) -> None:
    with exclusive(tiny.directory):
        thread = threading.Thread(target=forget_classes, args=(tiny.directory, ["daisy"]))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert "daisy" in ModelPackage.open(tiny.directory).bundle.labels
    thread.join(30)
    assert "daisy" not in ModelPackage.open(tiny.directory).bundle.labels


def test_a_class_forgotten_before_its_bundle_came_has_a_receipt_there_too(
    tiny: TinyPackage, tmp_path: Path
) -> None:
    forget_classes(tiny.directory, ["rose"])
    other = write_tiny_package(tmp_path / "other", model_id=ModelId("sha256:" + "77" * 32))
    opened = open_model(other.directory)
    assert "rose" not in opened.bundle.labels
    memory, statement = opened.state.memory, opened.bundle.place.statement
    assert memory.erased(tiny.class_id("rose"), statement) is not None


def test_what_a_killed_forget_left_goes_with_the_next(tiny: TinyPackage) -> None:
    leftover = tiny.directory / ".bundle.safetensors.0123456789abcdef.tmp"
    leftover.write_bytes(tiny.bundle_path.read_bytes())
    forget_classes(tiny.directory, ["rose"])
    assert not leftover.exists()


def test_a_damaged_bundle_is_refused(tiny: TinyPackage) -> None:
    data = bytearray(tiny.bundle_path.read_bytes())
    data[-1] ^= 1
    tiny.bundle_path.write_bytes(data)
    with pytest.raises(VerificationError, match="step 8"):
        forget_classes(tiny.directory, ["rose"])
    assert tiny.bundle_path.read_bytes() == data


def test_no_package(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no model package"):
        forget_classes(tmp_path / "nowhere", ["rose"])
    assert list(tmp_path.iterdir()) == []


_ID = ClassId("0" * 31 + "1")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("rose", _ID),
        (_ID, _ID),
        ("café", ClassId("2" * 32)),
        ("cafe\u0301", ClassId("2" * 32)),
        ("Rose", None),
        (" rose", None),
        ("", None),
        (_ID.upper() + "x", None),
    ],
)
def test_names_are_exact_up_to_normal_form(key: str, expected: ClassId | None) -> None:
    classes = [(_ID, "rose"), (ClassId("2" * 32), "café")]
    assert find_class(classes, key) == expected


def test_an_id_that_is_also_a_label_is_not_guessed_at() -> None:
    classes = [(_ID, "rose"), (ClassId("2" * 32), str(_ID))]
    with pytest.raises(UnknownClassError, match="both an id and a label"):
        find_class(classes, _ID)
    assert find_class([(_ID, str(_ID))], _ID) == _ID


def test_every_class_at_once(tiny: TinyPackage) -> None:
    assert len(forget_classes(tiny.directory, LABELS)) == len(LABELS)
    assert len(ModelPackage.open(tiny.directory).bundle) == 0


def test_what_was_erased_under_another_key_stays_erased_without_a_receipt(
    tiny: TinyPackage, device_state: Path
) -> None:
    rose = tiny.class_id("rose")
    assert forget_classes(tiny.directory, [rose])[0].receipt is not None
    DeviceState.adopt(device_state)
    (again,) = forget_classes(tiny.directory, [rose])
    assert (again.erased, again.receipt) == (True, None)
    assert again.problem is not None
    assert "which this device has no longer" in again.problem
    assert forget_classes(tiny.directory, ["daisy"])[0].receipt is not None
