"""Each way in which a forgotten class might come back, by its name; none succeeds.

Every test forgets "rose" on a device, tries one way, and asks three things: nobody serves the
class, its bytes are not in the package's file, and what should stay is all there.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest

from pfm_edge_runtime.bundle import ClassId, TrustedKeys
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import PfmEdgeError, StateMissingError, VerificationError
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.opening import install_bundle, open_model
from pfm_edge_runtime.state import DeviceState
from tests.support.tiny_package import (
    LABELS,
    TinyPackage,
    build_bundle,
    class_tensors,
    quarter,
    write_tiny_package,
)

ISSUER = SigningKey.generate()
ROSE = LABELS.index("rose")
STAY = sorted(set(LABELS) - {"rose"})
OTHER_MODEL = ModelId("sha256:" + "77" * 32)


@dataclass(frozen=True)
class Device:
    package: TinyPackage
    state: Path
    rose: ClassId

    @property
    def directory(self) -> Path:
        return self.package.directory

    def bundle(self, sequence: int, labels: tuple[str, ...] = LABELS) -> bytes:
        """What the issuer would send: signed, and with the class in it."""
        manifest = (self.directory / "manifest.json").read_bytes()
        return build_bundle(manifest, labels, sequence=sequence, key=ISSUER).to_bytes()

    def require_gone(self) -> None:
        model = Classifier.open(self.directory, state=self.state, require_state=True, threads=1)
        assert sorted(each.label for each in model.classes) == STAY
        for index, label in enumerate(LABELS):
            found = model.predict(quarter(index))
            assert self.rose not in found.scores
            assert (found.label == label) == (label != "rose")
        assert class_tensors(ROSE)["prompt_values"].tobytes() not in self.stored()

    def stored(self) -> bytes:
        return b"".join(each.read_bytes() for each in self.directory.iterdir())


def _device(root: Path, sequence: int = 5) -> Device:
    package = write_tiny_package(root / "model", sequence=sequence, key=ISSUER)
    shutil.copytree(package.directory, root / "backup")
    state = root / "state"
    DeviceState.create(state, trust=TrustedKeys(1, frozenset({ISSUER.public})), bind=False)
    device = Device(package, state, package.class_id("rose"))
    (done,) = forget_classes(package.directory, [device.rose], state=state, require_state=True)
    assert done.erased
    device.require_gone()
    return device


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return _device(tmp_path)


def test_by_an_update_that_still_has_the_class(device: Device) -> None:
    opened = install_bundle(device.directory, device.bundle(6), state=device.state)
    assert sorted(opened.bundle.labels) == STAY
    device.require_gone()


def test_by_a_rollback_to_the_version_before(device: Device) -> None:
    with pytest.raises(VerificationError, match="step 5"):
        install_bundle(device.directory, device.bundle(4), state=device.state)
    device.require_gone()


def test_by_a_rollback_that_replaces_the_file(device: Device) -> None:
    device.package.bundle_path.write_bytes(device.bundle(4))
    with pytest.raises(VerificationError, match="step 5"):
        Classifier.open(device.directory, state=device.state)


def test_by_another_statement_at_the_same_place(device: Device) -> None:
    manifest = (device.directory / "manifest.json").read_bytes()
    later = datetime(2027, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 (Python 3.10 has no UTC)
    other = build_bundle(manifest, sequence=5, issued_at=later, key=ISSUER)
    device.package.bundle_path.write_bytes(other.to_bytes())
    with pytest.raises(VerificationError, match="step 5"):
        Classifier.open(device.directory, state=device.state)


def test_by_a_restored_backup_of_the_bundle(device: Device, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "backup" / "bundle.safetensors", device.package.bundle_path)
    device.require_gone()


def test_by_a_restored_backup_over_and_over(device: Device, tmp_path: Path) -> None:
    ledger = device.state / "ledger.jsonl"
    before = ledger.read_bytes()
    for _ in range(3):
        shutil.copy(tmp_path / "backup" / "bundle.safetensors", device.package.bundle_path)
        device.require_gone()
    assert ledger.read_bytes() == before  # and nobody can fill the disk that way


def test_by_a_replaced_package_directory(device: Device, tmp_path: Path) -> None:
    shutil.rmtree(device.directory)
    shutil.copytree(tmp_path / "backup", device.directory)
    device.require_gone()


def test_by_a_second_copy_of_the_package(device: Device, tmp_path: Path) -> None:
    copy = Device(
        TinyPackage(tmp_path / "backup", device.package.manifest, device.package.bundle),
        device.state,
        device.rose,
    )
    copy.require_gone()


def test_by_a_re_export(device: Device) -> None:
    shutil.rmtree(device.directory)
    write_tiny_package(device.directory, sequence=6, key=ISSUER)
    device.require_gone()


def test_by_a_retraining(device: Device) -> None:
    # The same class id under another model, as the registry has it.
    shutil.rmtree(device.directory)
    write_tiny_package(device.directory, model_id=OTHER_MODEL, key=ISSUER)
    device.require_gone()
    receipt = DeviceState.open(device.state).memory.erased(device.rose)
    assert receipt is not None


def test_by_an_old_mirror(device: Device) -> None:
    for sequence in (1, 2, 3, 4):
        with pytest.raises(VerificationError, match="older than what this device had"):
            install_bundle(device.directory, device.bundle(sequence), state=device.state)
    device.require_gone()


def test_by_a_usb_stick(device: Device) -> None:
    # A newer bundle, copied over the file by hand while no software of ours runs.
    device.package.bundle_path.write_bytes(device.bundle(9))
    device.require_gone()


def test_by_a_wiped_download_cache(device: Device, tmp_path: Path) -> None:
    for each in device.state.iterdir():
        if each.name not in {"ledger.jsonl", "device.key", "device.pub", "trust"}:
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    shutil.copy(tmp_path / "backup" / "bundle.safetensors", device.package.bundle_path)
    device.require_gone()


def test_by_a_wiped_state_where_one_is_required(device: Device, tmp_path: Path) -> None:
    shutil.rmtree(device.state)
    shutil.copy(tmp_path / "backup" / "bundle.safetensors", device.package.bundle_path)
    with pytest.raises(StateMissingError, match="pfm-device init"):
        Classifier.open(device.directory, state=device.state, require_state=True)


def test_by_a_state_that_is_wiped_while_the_model_runs(device: Device, tmp_path: Path) -> None:
    model = Classifier.open(device.directory, state=device.state, threads=1)
    shutil.rmtree(device.state)
    shutil.copy(tmp_path / "backup" / "bundle.safetensors", device.package.bundle_path)
    assert model.predict(quarter(ROSE)).label != "rose"
    assert sorted(each.label for each in model.classes) == STAY


def test_by_another_state_while_the_model_runs(device: Device, tmp_path: Path) -> None:
    model = Classifier.open(device.directory, state=device.state, require_state=True, threads=1)
    shutil.rmtree(device.state)
    trust = TrustedKeys(1, frozenset({ISSUER.public}))
    DeviceState.create(device.state, trust=trust, bind=False)
    shutil.copy(tmp_path / "backup" / "bundle.safetensors", device.package.bundle_path)
    assert sorted(each.label for each in model.classes) == STAY
    open_model(device.directory, state=device.state)  # somebody else installs it
    device.package.bundle_path.write_bytes(device.bundle(8))
    open_model(device.directory, state=device.state)
    assert sorted(each.label for each in model.classes) == STAY
    assert model.predict(quarter(ROSE)).label != "rose"


def test_by_a_first_use_where_a_running_model_requires_a_state(device: Device) -> None:
    model = Classifier.open(device.directory, state=device.state, require_state=True, threads=1)
    shutil.rmtree(device.state)
    with pytest.raises(StateMissingError, match="pfm-device init"):
        model.forget("daisy")
    assert not device.state.exists()
    # Somebody else's first use, and a bundle that nobody in particular signed.
    DeviceState.create(device.state, trust=None, bind=False)
    manifest = (device.directory / "manifest.json").read_bytes()
    device.package.bundle_path.write_bytes(build_bundle(manifest, LABELS, sequence=9).to_bytes())
    assert sorted(each.label for each in model.classes) == STAY


def test_by_an_install_that_is_older_than_what_lies_there(device: Device) -> None:
    device.package.bundle_path.write_bytes(device.bundle(7))  # nobody has opened it yet
    with pytest.raises(VerificationError, match="step 5"):
        install_bundle(device.directory, device.bundle(6), state=device.state)
    device.require_gone()


def test_by_a_ledger_that_is_cut_back(device: Device) -> None:
    # Not by a power cut: that tears at most the record that was never confirmed. Here whole,
    # confirmed records are gone, and the file says so: the class is missing, unexplained.
    ledger = device.state / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:2]))  # init and install
    with pytest.raises(VerificationError, match="step 11"):
        Classifier.open(device.directory, state=device.state)


@pytest.mark.parametrize("year", [1971, 2099])
def test_by_a_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Frozen":
            return cls(year, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 (Python 3.10 has no UTC)

    monkeypatch.setattr("pfm_edge_runtime.state._clock.datetime", Frozen)
    device = _device(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(
        "pfm_edge_runtime.state._clock.datetime",
        type("Other", (Frozen,), {"now": classmethod(lambda cls, tz=None: cls(4070 - year, 1, 1))}),
    )
    shutil.copy(tmp_path / "backup" / "bundle.safetensors", device.package.bundle_path)
    device.require_gone()


def test_by_a_process_that_opened_the_package_before_the_forget(tmp_path: Path) -> None:
    package = write_tiny_package(tmp_path / "model", key=ISSUER)
    running = Classifier.open(package.directory, state=tmp_path / "state", threads=1)
    assert running.predict(quarter(ROSE)).label == "rose"
    forget_classes(package.directory, [package.class_id("rose")], state=tmp_path / "state")
    assert running.predict(quarter(ROSE)).label != "rose"  # at its very next call


@pytest.mark.parametrize("replaced", ["before", "after"])
def test_by_a_dying_file_or_a_leftover_that_is_renamed(
    device: Device, tmp_path: Path, replaced: str
) -> None:
    backup = (tmp_path / "backup" / "bundle.safetensors").read_bytes()
    for name in (".bundle.safetensors.dying", ".bundle.safetensors.0123456789abcdef.tmp"):
        leftover = device.directory / name
        leftover.write_bytes(backup)
        if replaced == "before":
            leftover.rename(device.package.bundle_path)
        device.require_gone()
        assert not leftover.exists()


Attack = Callable[[Device], None]


def _without_tombstone_by_label(device: Device) -> None:
    with pytest.raises(PfmEdgeError, match="no class has that id or label"):
        forget_classes(device.directory, ["rose"], state=device.state)


def _forgotten_twice(device: Device) -> None:
    first = forget_classes(device.directory, [device.rose], state=device.state)
    second = forget_classes(device.directory, [device.rose], state=device.state)
    assert first[0].receipt is not None
    assert first[0].receipt == second[0].receipt


@pytest.mark.parametrize("attack", [_without_tombstone_by_label, _forgotten_twice])
def test_by_forgetting_once_more(device: Device, attack: Attack) -> None:
    ledger = (device.state / "ledger.jsonl").read_bytes()
    attack(device)
    assert (device.state / "ledger.jsonl").read_bytes() == ledger
    device.require_gone()


def test_by_a_retained_class_that_takes_its_place(device: Device) -> None:
    # The file lacks "tulip" where it should lack "rose" only.
    manifest = (device.directory / "manifest.json").read_bytes()
    whole = build_bundle(manifest, sequence=5, key=ISSUER)
    device.package.bundle_path.write_bytes(
        whole.without([device.package.class_id("tulip")]).to_bytes()
    )
    with pytest.raises(VerificationError, match="step 11"):
        open_model(device.directory, state=device.state)
