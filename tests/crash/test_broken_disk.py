"""A full or failing disk, at every call of a forget: it says what is so, and what is so holds.

Either nothing changed, or the class is forgotten and not yet erased, or it is erased. Whatever was
said is still true if the power goes right after it was said.
"""

import errno
from collections import Counter
from pathlib import Path

import pytest

from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import StorageError
from tests.support.broken_disk import broken, calls_of
from tests.support.crash_disk import crash_points
from tests.support.crash_scenarios import SCENARIOS, class_id
from tests.support.device_disk import ERASED, KEPT, REFUSED, DeviceDisk
from tests.support.power_loss import Lab, Report
from tests.support.recorded_disk import recorded

_UNKNOWN = "not known"  # the disk refused to write, and to take it back
# What is on the disk then. A record of an erasure may be there though it was not confirmed.
_TRUE = {
    KEPT: {KEPT},
    REFUSED: {REFUSED, ERASED},
    ERASED: {ERASED},
    _UNKNOWN: {KEPT, REFUSED},
}


def _open(root: Path) -> Classifier:
    return Classifier.open(root / "model", state=root / "state", threads=1)


def _forget(model: Classifier) -> str:
    """Forget; return the state that this was said to lead to, or ``_UNKNOWN``."""
    try:
        forgotten = model.forget(class_id("rose"))
    except StorageError as error:
        return _UNKNOWN if _UNKNOWN in str(error) else KEPT
    assert (forgotten.receipt is not None) == forgotten.erased == (forgotten.problem is None)
    return ERASED if forgotten.erased else REFUSED


@pytest.mark.parametrize(
    ("code", "stays", "half"),
    [
        (errno.EIO, False, False),
        (errno.ENOSPC, False, True),
        (errno.EROFS, True, False),
    ],
    ids=["one call fails", "the disk is full", "every call fails from then on"],
)
def test_a_forget_says_what_is_so(code: int, stays: bool, half: bool, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", SCENARIOS["forget"])
    whole, said = _open(lab.copy()), Counter[str]()
    for number in range(1, 1 + calls_of(lambda: _forget(whole))):
        root = lab.copy()
        model = _open(root)
        with recorded(root) as recording, broken(number, code, stays=stays, half=half):
            state = _forget(model)
        said[state] += 1
        found = DeviceDisk.read(root).state(class_id("rose"))
        assert found in _TRUE[state], number
        assert (class_id("rose") in {each.class_id for each in model.classes}) == (found == KEPT)
        last = len(recording.steps)
        report = Report()
        for point in crash_points(recording):
            if point.steps == last:
                report.merge(lab.examine(recording, [point], complete=False))
        assert report.violations == [], number
        assert {before for before, _ in report.states} <= _TRUE[state], number
    assert {KEPT, REFUSED} <= said.keys()


@pytest.mark.parametrize("stays", [False, True], ids=["one call fails", "every call fails"])
@pytest.mark.parametrize("name", [name for name, each in SCENARIOS.items() if not each.forgotten])
def test_any_other_operation_works_or_can_be_repeated(
    name: str, stays: bool, tmp_path: Path
) -> None:
    lab = Lab(tmp_path / "lab", SCENARIOS[name])
    whole, refused = lab.copy(), 0
    for number in range(1, 1 + calls_of(lambda: lab.scenario.run(whole))):
        root = lab.copy()
        try:
            with recorded(root) as recording, broken(number, errno.EIO, stays=stays):
                model = lab.scenario.run(root)
        except StorageError:
            refused += 1
        else:
            refused += model.problem is not None
        last = len(recording.steps)
        points = [point for point in crash_points(recording) if point.steps == last]
        assert lab.examine(recording, points, complete=False).violations == [], number
        lab.scenario.run(root)
        assert lab.judge(root, done=True).violations == [], number
    assert refused
