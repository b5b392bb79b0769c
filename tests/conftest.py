"""What holds for every test: a device memory of its own.

A tombstone holds for every model of a device, so two tests that shared a state would see each
other's forgets, and the user's own state must never be touched. Processes that a test starts
inherit the variable.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

_VARIABLE = "PFM_EDGE_STATE"
_NUMBERS = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _no_state_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep fixtures of a wider scope, which run before any test's own, off the user's state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_VARIABLE, str(tmp_path_factory.mktemp("shared-state") / "state"))
        yield


@pytest.fixture(autouse=True)
def device_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where this test's device keeps its state; nothing is there yet."""
    # Numbered here: mktemp's own numbering lists the whole directory for each test.
    parent = tmp_path_factory.mktemp(f"device-{next(_NUMBERS)}", numbered=False)
    monkeypatch.setenv(_VARIABLE, str(parent / "state"))
    return parent / "state"
