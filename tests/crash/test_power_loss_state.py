"""Power loss while the device's memory itself begins, changes hands, or learns whom to trust.

After each, the same command again gets there, and nothing that was forgotten is remembered.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from pfm_edge_runtime.bundle import ClassId, EntryDigest, StatementDigest, TrustedKeys
from pfm_edge_runtime.errors import StateError, StateMissingError
from pfm_edge_runtime.keys import SigningKey, public_from_pem
from pfm_edge_runtime.state import DeviceState, TombstoneRecord
from tests.support.crash_disk import crash_points
from tests.support.device_disk import DeviceDisk
from tests.support.recorded_disk import recorded
from tests.support.tiny_package import MODEL_ID

_TRUST = TrustedKeys(1, frozenset({SigningKey.generate().public}))
_GONE = ClassId("1" * 32)


def _with_a_tombstone(root: Path) -> None:
    state = DeviceState.create(root / "state", trust=None, bind=False)
    with state.exclusive():
        state.append(
            TombstoneRecord(
                class_id=_GONE,
                model_id=MODEL_ID,
                statement=StatementDigest("2" * 64),
                entry_digest=EntryDigest("3" * 64),
                moment=state.moment(),
            )
        )


def _without_its_key(root: Path) -> None:
    _with_a_tombstone(root)
    (root / "state" / "device.key").unlink()


def _create(root: Path) -> DeviceState:
    try:
        return DeviceState.open(root / "state")
    except StateMissingError:
        return DeviceState.create(root / "state", trust=_TRUST, bind=False)


def _adopt(root: Path) -> DeviceState:
    try:
        return DeviceState.open(root / "state")
    except StateError:
        return DeviceState.adopt(root / "state")


def _replace_trust(root: Path) -> DeviceState:
    return DeviceState.replace_trust(root / "state", _TRUST)


@pytest.mark.parametrize(
    ("prepare", "run", "trust"),
    [
        (lambda root: None, _create, _TRUST),
        (_without_its_key, _adopt, None),
        (_with_a_tombstone, _replace_trust, _TRUST),
    ],
    ids=["created", "adopted", "told whom to trust"],
)
def test_power_loss(
    prepare: Callable[[Path], None],
    run: Callable[[Path], DeviceState],
    trust: TrustedKeys | None,
    tmp_path: Path,
) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    prepare(root)
    before = DeviceDisk.read(root).records
    with recorded(root) as recording:
        run(root)
    done = DeviceDisk.read(root).records
    points = crash_points(recording)
    for number, point in enumerate(points):
        image = tmp_path / str(number)
        image.mkdir()
        point.image.write_to(image)
        left = DeviceDisk.read(image).records
        assert left[: len(before)] == before, point.how
        assert point.steps < len(recording.steps) or left == done, point.how
        state = run(image)
        assert state.trust == trust, point.how
        assert set(state.memory.tombstones) == ({_GONE} if before else set()), point.how
        assert public_from_pem((image / "state" / "device.pub").read_bytes()) == state.public_key
        assert state.signing_key().public == state.public_key
    assert len(points) > 10
