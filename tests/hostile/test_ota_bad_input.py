"""What people and disks get wrong: one clear line each, and the old bundle goes on serving.

The device is up to date and forgot "rose"; something new waits for it.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.errors import PfmEdgeError
from pfm_edge_runtime.manifest import ModelId
from tests.support.ota_scene import Scene, set_scene
from tests.support.ota_server import FileServer, captive_portal
from tests.support.ota_world import Device, World
from tests.support.tiny_package import write_tiny_package

STAY = {"daisy", "tulip", "violet"}
OTHER_MODEL = ModelId("sha256:" + "77" * 32)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with set_scene(tmp_path) as scene:
        scene.world.publish("daisy", "tulip")
        yield scene


def _command(device: Device, *place: str) -> list[str]:
    state = ["--state", str(device.state), "--require-state"]
    return ["update", str(device.model), *place, *state, "--timeout", "1"]


Case = Callable[[Scene], list[str]]


def _unreachable(scene: Scene) -> list[str]:
    with FileServer(scene.world.public) as gone:
        return ["--repo", gone.url]


def _portal(scene: Scene) -> list[str]:
    scene.server.answers["*"] = captive_portal
    return ["--repo", scene.server.url]


def _empty_folder(scene: Scene) -> list[str]:
    (scene.world.root / "empty").mkdir()
    return ["--from", str(scene.world.root / "empty")]


def _not_a_list(scene: Scene) -> list[str]:
    (scene.world.root / "list.json").write_text("{}")
    return ["--from", str(scene.world.root / "list.json")]


def _private_folder(scene: Scene) -> list[str]:
    scene.server.folder = scene.world.root / "keys"
    return ["--repo", scene.server.url]


def _another_publisher(scene: Scene) -> list[str]:
    other = World.create(scene.world.root / "another")
    other.publish()
    scene.server.folder = other.public
    return ["--repo", scene.server.url]


def _another_model(scene: Scene) -> list[str]:
    shutil.rmtree(scene.device.model)
    write_tiny_package(scene.device.model, model_id=OTHER_MODEL)
    return ["--repo", scene.server.url]


def _no_trust_root(scene: Scene) -> list[str]:
    (scene.device.state / "trust" / "repository.json").unlink()
    return ["--repo", scene.server.url]


def _no_state(scene: Scene) -> list[str]:
    scene.device.state.rename(scene.world.root / "lost")
    return ["--repo", scene.server.url]


@pytest.mark.parametrize(
    ("case", "code", "hint"),
    [
        (_unreachable, 75, "cannot be reached"),
        (_portal, 75, "login"),
        (_empty_folder, 1, "holds no repository"),
        (_not_a_list, 1, "list.json"),
        (_private_folder, 75, "public folder"),
        (_another_publisher, 1, "cannot be trusted"),
        (_another_model, 1, "77777777"),
        (_no_trust_root, 1, "pfm-device init --root root.json"),
        (_no_state, 1, "pfm-device init"),
    ],
)
def test_one_clear_line(
    scene: Scene, case: Case, code: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = case(scene)
    assert main(_command(scene.device, *place)) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([each for each in lines if "error:" in each]) == 1, lines
    assert hint in lines[-1], lines
    assert "Traceback" not in "".join(lines)
    if case not in {_another_model, _no_state}:
        assert scene.device.answers == STAY


def test_a_failure_still_tells_what_was_forgotten(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.world.forget("tulip")
    scene.server.answers["targets/bundles/*"] = captive_portal
    assert main([*_command(scene.device, "--repo", scene.server.url), "--json"]) == 75
    found = json.loads(capsys.readouterr().out)
    assert found["outcome"] == "failed"
    assert found["forget_list"] == {"number": 3, "rows": 2, "applied": 1, "absent": 0}
    assert found["problem"]
    assert scene.device.answers == {"daisy", "violet"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing(scene: Scene, code: int) -> None:
    scene.world.forget("tulip")
    real = os.open

    def refusing(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(scene.device.root)):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *args, **kwargs)  # type: ignore[call-overload,no-any-return]

    with mock.patch.object(os, "open", refusing):
        report = scene.ask()
    assert isinstance(report.error, PfmEdgeError)
    assert report.exit_code == 1
    assert os.strerror(code) in str(report.problem)
    assert "\n" not in str(report.problem)
    assert scene.device.answers == STAY
    scene.follow()
    assert scene.device.answers == {"daisy"}
