"""The units that the runtime brings: systemd takes them, and what they start are our commands."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.keys import SigningKey, public_to_pem
from pfm_edge_runtime.ota.report import TRY_AGAIN
from tests.support.ota_server import FileServer
from tests.support.tiny_package import write_tiny_package
from tests.support.tuf_repository import Publisher

_FOLDER = Path(__file__).parents[2] / "runtime" / "systemd"
_CHECK = _FOLDER / "pfm-device-check@.service"
_UPDATE = _FOLDER / "pfm-device-update@.service"


def _settings(unit: Path, name: str) -> list[str]:
    lines = unit.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


@pytest.mark.parametrize("unit", sorted(_FOLDER.iterdir()), ids=lambda path: path.name)
def test_systemd_takes_it(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "verify", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []


def test_the_units_hold_each_other_up() -> None:
    assert set(_settings(_UPDATE, "ReadWritePaths")) == set(_settings(_CHECK, "ReadWritePaths"))
    for each in (_CHECK, _UPDATE):
        assert _settings(each, "StateDirectory") == ["pfm-edge"]
        assert _settings(each, "ProtectSystem") == ["strict"]
    assert _settings(_UPDATE, "Restart") == ["on-failure"]
    assert str(TRY_AGAIN) not in _settings(_UPDATE, "RestartPreventExitStatus")[0].split()
    assert _settings(_FOLDER / "pfm-device-update@.timer", "RandomizedDelaySec") == ["5min"]


def test_what_the_timer_starts_updates_the_package(
    tmp_path: Path, device_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = write_tiny_package(tmp_path / "model")
    publisher = Publisher.create(tmp_path / "repo", tiny, lasting=True)
    publisher.publish(sequence=2)
    (tmp_path / "root.json").write_bytes(publisher.root)
    (command,) = _settings(_UPDATE, "ExecStart")
    with FileServer(publisher.public) as server:
        command = command.replace("${PFM_EDGE_REPO}", server.url).replace("%f", str(tiny))
        command = command.replace("$PFM_EDGE_UPDATE_OPTIONS", "--json --max-bytes 100000")
        program, name, *arguments = shlex.split(command)
        assert (program, name) == ("/usr/bin/env", "pfm-device")
        arguments[arguments.index("/var/lib/pfm-edge")] = str(device_state)
        assert main(arguments) == 1
        assert main(["init", "--root", str(tmp_path / "root.json")]) == 0
        capsys.readouterr()
        assert main(arguments) == 0
    assert '"outcome": "updated"' in capsys.readouterr().out


def test_what_it_starts_verifies_the_package(
    tmp_path: Path, device_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer = SigningKey.generate()
    tiny = write_tiny_package(tmp_path / "model", key=issuer)
    (tmp_path / "issuer.pub").write_bytes(public_to_pem(issuer.public))
    (command,) = _settings(_CHECK, "ExecStart")
    program, name, *arguments = shlex.split(command.replace("%f", str(tiny.directory)))
    assert (program, name) == ("/usr/bin/env", "pfm-device")
    assert _settings(_CHECK, "StateDirectory") == ["pfm-edge"]
    arguments[arguments.index("/var/lib/pfm-edge")] = str(device_state)
    assert main(arguments) == 1  # no state: nothing is trusted on first use
    assert not device_state.exists()
    assert main(["init", "--key", str(tmp_path / "issuer.pub")]) == 0
    assert main(arguments) == 0
    tiny.bundle_path.write_bytes(tiny.bundle_path.read_bytes()[:-1])
    assert main(arguments) == 1
    assert "bundle.safetensors: step 2: " in capsys.readouterr().out
