"""A device, a repository, and what lies between them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.ota._http import HttpTransport
from pfm_edge_runtime.ota._transport import Meter
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.report import UpdateReport
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState, RepositoryTrust
from tests.support.ota_server import FileServer
from tests.support.tiny_package import TinyPackage, write_tiny_package
from tests.support.tuf_repository import Publisher, clock

Update = Callable[..., UpdateReport]
Open = Callable[..., HttpTransport]

DATA = b"x" * 3000
"""What a server has, as ``a.json``."""


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.json").write_bytes(DATA)
    with FileServer(tmp_path / "served") as made:
        yield made


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def opened(server: FileServer, pauses: list[float]) -> Open:
    def make(url: str = "", *, most: int | None = None, **options: float) -> HttpTransport:
        given = {"timeout": 5.0, "attempts": 1, **options}
        made = UpdateOptions(sleep=pauses.append, draw=lambda: 0.5, **given)  # type: ignore[arg-type]
        return HttpTransport(url or server.url, made, Meter(most))

    return make
