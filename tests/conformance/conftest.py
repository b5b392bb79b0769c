"""What the tests of TUF's conformance begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import tuf_client
from tests.support.ota_conformance import Stage
from tests.support.ota_server import FileServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with FileServer(tmp_path / "repository") as server:
        yield server


@pytest.fixture
def stage(tmp_path: Path, server: FileServer) -> Stage:
    """A client that was initialised, and a repository that it has not seen yet."""
    stage = Stage(tmp_path, server, tuf_client.main)
    assert stage.init() == 0
    return stage
