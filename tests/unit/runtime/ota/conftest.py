"""A device, a repository, and what lies between them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.report import UpdateReport
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState, RepositoryTrust
from tests.support.tiny_package import TinyPackage, write_tiny_package
from tests.support.tuf_repository import Publisher, clock

Update = Callable[..., UpdateReport]


def told_of(device_state: Path, publisher: Publisher, folder: Path) -> int:
    """Tell a device of a publisher's root, as a person does; return the exit code."""
    (folder / "root.json").write_bytes(publisher.root)
    return main(["init", "--state", str(device_state), "--root", str(folder / "root.json")])


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model", classes=3)


@pytest.fixture
def publisher(tmp_path: Path, tiny: TinyPackage) -> Publisher:
    return Publisher.create(tmp_path / "repo", tiny)


@pytest.fixture
def device(device_state: Path, publisher: Publisher) -> DeviceState:
    state = DeviceState.create(device_state, trust=None, bind=False)
    state.know_repository(RepositoryTrust(publisher.root))
    return state


@pytest.fixture
def update(device: DeviceState, publisher: Publisher, tiny: TinyPackage) -> Update:
    def run(place: Any = None, **options: Any) -> UpdateReport:
        given = UpdateOptions(**{"clock": clock, "sleep": lambda _: None, **options})
        source = open_source(publisher.public if place is None else place, given)
        return update_model(tiny.directory, source, state=device, options=given)

    return run
