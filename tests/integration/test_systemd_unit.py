"""The unit that the runtime brings: systemd takes it, and what it starts is a command of ours."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.keys import SigningKey, public_to_pem
from tests.support.tiny_package import write_tiny_package

_UNIT = Path(__file__).parents[2] / "runtime" / "systemd" / "pfm-device-check@.service"


def _settings(name: str) -> list[str]:
    lines = _UNIT.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def test_systemd_takes_it() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "verify", str(_UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if _UNIT.name in line]
    assert complaints == []


def test_what_it_starts_verifies_the_package(
    tmp_path: Path, device_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer = SigningKey.generate()
    tiny = write_tiny_package(tmp_path / "model", key=issuer)
    (tmp_path / "issuer.pub").write_bytes(public_to_pem(issuer.public))
    (command,) = _settings("ExecStart")
    program, name, *arguments = shlex.split(command.replace("%f", str(tiny.directory)))
    assert (program, name) == ("/usr/bin/env", "pfm-device")
    assert _settings("StateDirectory") == ["pfm-edge"]
    arguments[arguments.index("/var/lib/pfm-edge")] = str(device_state)
    assert main(arguments) == 1  # no state: nothing is trusted on first use
    assert not device_state.exists()
    assert main(["init", "--key", str(tmp_path / "issuer.pub")]) == 0
    assert main(arguments) == 0
    tiny.bundle_path.write_bytes(tiny.bundle_path.read_bytes()[:-1])
    assert main(arguments) == 1
    assert "bundle.safetensors: step 2: " in capsys.readouterr().out
