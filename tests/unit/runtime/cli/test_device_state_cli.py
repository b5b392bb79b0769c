"""``pfm-device init``, ``receipts`` and ``doctor`` through ``main``: what they say, and do."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.keys import SigningKey, key_id, public_to_pem
from pfm_edge_runtime.state import DeviceState
from tests.support.failing_disk import Fault
from tests.support.remembered import class_id, install, new_state, tombstone
from tests.support.tiny_package import LABELS, TinyPackage, write_tiny_package

Capture = pytest.CaptureFixture[str]
_ISSUER = SigningKey.generate()


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model", key=_ISSUER)


@pytest.fixture
def issuer(tmp_path: Path) -> str:
    return _write_key(tmp_path / "issuer.pub", _ISSUER)


def _write_key(path: Path, key: SigningKey) -> str:
    path.write_bytes(public_to_pem(key.public))
    return str(path)


def _error_line(capsys: Capture) -> str:
    """Require one line on standard error, nothing on standard output; return the line."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pfm-device: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def _rows(capsys: Capture) -> dict[str, str]:
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split("\t")[:2] for line in lines)


# --- init


def test_init_without_a_key_trusts_on_first_use(device_state: Path, capsys: Capture) -> None:
    assert main(["init"]) == 0
    rows = _rows(capsys)
    assert rows["device"] == DeviceState.open(device_state).device
    assert rows["public key"] == str(device_state / "device.pub")
    assert rows["trust"] == "on first use"
    assert main(["init"]) == 0
    captured = capsys.readouterr()
    assert "nothing changed" in captured.err
    assert rows["device"] in captured.out


def test_init_with_keys(tmp_path: Path, issuer: str, capsys: Capture) -> None:
    other = _write_key(tmp_path / "other.pub", SigningKey.generate())
    keys = ["--key", issuer, "--key", other]
    state = tmp_path / "device"
    assert main(["init", "--state", str(state), "--json", *keys, "--threshold", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trust"]["threshold"] == 1
    assert key_id(_ISSUER.public) in found["trust"]["keys"]
    assert main(["init", "--state", str(state), *keys, "--threshold", "1"]) == 0  # as it is
    capsys.readouterr()
    assert main(["init", "--state", str(state), *keys]) == 1
    assert "--replace-trust" in _error_line(capsys)
    assert main(["init", "--state", str(state), *keys, "--replace-trust"]) == 0
    trust = DeviceState.open(state).trust
    assert trust is not None
    assert trust.threshold == len(trust.keys) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--threshold", "1"], "--key"),
        (["--replace-trust"], "--key"),
        (["--key", "{issuer}", "--threshold", "2"], "threshold of 2"),
        (["--key", "{issuer}", "--key", "{issuer}"], "twice"),
        (["--key", "{tmp}/nowhere.pub"], "nowhere.pub cannot be read"),
        (["--key", "{tmp}/ec.pub"], "an EC key; pfm-edge needs Ed25519"),
        (["--key", "{tmp}/private.pem"], "private key"),
        (["--key", "{tmp}"], "cannot be read"),
        (["--adopt", "--key", "{issuer}"], "--replace-trust"),
        (["--adopt"], "no device state"),
        (["--replace-trust", "--key", "{issuer}"], "no device state"),
        (["--state", "{issuer}"], "Not a directory"),
        (["--state", "{tmp}"], "name an empty directory"),
    ],
    ids=" ".join,
)
def test_init_refuses(
    tmp_path: Path,
    issuer: str,
    device_state: Path,
    capsys: Capture,
    arguments: list[str],
    complaint: str,
) -> None:
    point = generate_private_key(SECP256R1()).public_key()
    pem = point.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ec.pub").write_bytes(pem)
    (tmp_path / "private.pem").write_bytes(_ISSUER.to_pem())
    assert main(["init", *(each.format(issuer=issuer, tmp=tmp_path) for each in arguments)]) == 1
    assert complaint in _error_line(capsys)
    assert not device_state.exists()


def test_init_adopts_a_state_that_lost_its_key(device_state: Path, capsys: Capture) -> None:
    state = new_state(device_state, install(), tombstone(1))
    (device_state / "device.key").unlink()
    assert main(["init"]) == 1
    assert "--adopt" in _error_line(capsys)
    assert main(["init", "--adopt"]) == 0
    assert _rows(capsys)["device"] != state.device
    assert DeviceState.open(device_state).memory.tombstones == {class_id(1): 3}


def test_init_mends_a_list_of_keys_that_is_gone(
    device_state: Path, issuer: str, capsys: Capture
) -> None:
    assert main(["init", "--key", issuer]) == 0
    (device_state / "trust" / "keys.json").unlink()
    capsys.readouterr()
    assert main(["init", "--key", issuer]) == 1
    assert "--replace-trust" in _error_line(capsys)
    assert main(["init", "--replace-trust", "--key", issuer]) == 0
    assert DeviceState.open(device_state).trust is not None


def test_init_on_a_full_disk(device_state: Path, capsys: Capture) -> None:
    with Fault("write", 1).injected():
        assert main(["init"]) == 1
    assert "No space left" in _error_line(capsys)
    assert main(["init"]) == 0


# --- receipts


@pytest.fixture
def forgotten(tiny: TinyPackage, capsys: Capture) -> str:
    """The id of a class that was just forgotten."""
    gone = tiny.class_id("rose")
    assert main(["forget", str(tiny), gone]) == 0
    capsys.readouterr()
    return str(gone)


def test_receipts_of_a_device_that_forgot_nothing(device_state: Path, capsys: Capture) -> None:
    assert main(["receipts", "list"]) == 1
    assert "pfm-device init" in _error_line(capsys)
    assert not device_state.exists()
    assert main(["init"]) == 0
    capsys.readouterr()
    assert main(["receipts", "list"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no class was erased on this device\n")


def test_receipts_are_listed_shown_and_verified(
    forgotten: str, device_state: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["receipts", "list"]) == 0
    ((number, _, listed, outcome),) = [
        line.split("\t") for line in capsys.readouterr().out.splitlines()
    ]
    assert (listed, outcome) == (forgotten, "erased")
    assert main(["receipts", "show", forgotten]) == 0
    text = capsys.readouterr().out
    assert main(["receipts", "show", number]) == 0
    assert capsys.readouterr().out == text
    assert not [label for label in LABELS if label in text]
    (tmp_path / "receipt.json").write_text(text)
    verify = ["receipts", "verify", "--key", str(device_state / "device.pub")]
    assert main([*verify, str(tmp_path / "receipt.json")]) == 0
    assert capsys.readouterr().out.startswith("verified: ")
    assert main([*verify, str(tmp_path / "receipt.json"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["verified"], facts["class_id"], facts["claim_level"]) == (True, forgotten, "L0")
    assert main(["receipts", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["receipts"]
    assert row == {key: value for key, value in facts.items() if key in row}


def test_a_receipt_on_standard_input(
    forgotten: str, device_state: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert main(["receipts", "show", forgotten]) == 0
    data = capsys.readouterr().out.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["receipts", "verify", "-", "--key", str(device_state / "device.pub")]) == 0
    monkeypatch.setattr(sys, "stdin", None)
    capsys.readouterr()
    assert main(["receipts", "verify", "-", "--key", str(device_state / "device.pub")]) == 1
    assert "closed" in _error_line(capsys)


def test_no_such_receipt(forgotten: str, capsys: Capture) -> None:
    for which in ("0" * 32, "1", "rose"):
        assert main(["receipts", "show", which]) == 1
        line = _error_line(capsys)
        assert "receipts list" in line
        assert "rose" not in line


def test_a_class_that_is_not_yet_erased(device_state: Path, capsys: Capture) -> None:
    new_state(device_state, install(), tombstone(1))
    assert main(["receipts", "show", class_id(1)]) == 1
    assert "not yet erased" in _error_line(capsys)
    assert main(["receipts", "list"]) == 0
    assert "1 forgotten, not yet erased" in capsys.readouterr().err


def test_a_receipt_of_a_stranger_and_none_at_all(
    forgotten: str, issuer: str, tmp_path: Path, device_state: Path, capsys: Capture
) -> None:
    assert main(["receipts", "show", forgotten]) == 0
    receipt = tmp_path / "receipt.json"
    receipt.write_text(capsys.readouterr().out)
    assert main(["receipts", "verify", str(receipt), "--key", issuer]) == 1
    assert "device.pub" in _error_line(capsys)
    receipt.write_text("{}")
    key = str(device_state / "device.pub")
    for path in (receipt, tmp_path / "nowhere", tmp_path):
        assert main(["receipts", "verify", str(path), "--key", key]) == 1
        assert str(path) in _error_line(capsys)


# --- doctor


def _problems(capsys: Capture, arguments: list[str]) -> dict[str, str]:
    """Run the doctor; return what it complains about, and require that the exit code says so."""
    code = main(["doctor", "--json", *arguments])
    checks = json.loads(capsys.readouterr().out)["checks"]
    problems = {each["name"]: each["finding"] for each in checks if each["status"] == "problem"}
    assert code == (1 if problems else 0)
    return problems


def test_a_healthy_device(tiny: TinyPackage, issuer: str, capsys: Capture) -> None:
    assert main(["init", "--key", issuer]) == 0
    capsys.readouterr()
    assert _problems(capsys, [str(tiny), "--require-state"]) == {}
    assert main(["doctor", str(tiny)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {row[0] for row in rows} <= {"ok", "note", ""}
    assert [f"{tiny}: bundle"] == [row[1] for row in rows if "all eleven steps" in row[-1]]


def test_no_state_is_made_by_looking(
    tiny: TinyPackage, device_state: Path, capsys: Capture
) -> None:
    assert _problems(capsys, [str(tiny)]) == {}
    assert _problems(capsys, [str(tiny), "--repair"]) == {}
    assert set(_problems(capsys, [str(tiny), "--require-state"])) == {"state"}
    assert not device_state.exists()


def test_a_state_that_names_nobody_where_that_is_required(
    tiny: TinyPackage, capsys: Capture
) -> None:
    assert main(["init"]) == 0
    capsys.readouterr()
    assert set(_problems(capsys, [str(tiny), "--require-state"])) == {"trust", "bundle"}
    # A first use without it pins nobody, where nobody had signed: still nobody to trust.
    unsigned = write_tiny_package(tiny.directory.with_name("unsigned"))
    assert main(["classes", str(unsigned)]) == 0
    capsys.readouterr()
    assert set(_problems(capsys, [str(unsigned), "--require-state"])) == {"trust", "bundle"}
    assert main(["classes", str(unsigned), "--require-state"]) == 1
    assert "whom to trust" in capsys.readouterr().err


def test_what_is_wrong_with_a_package(tiny: TinyPackage, issuer: str, capsys: Capture) -> None:
    assert main(["init", "--key", issuer]) == 0
    capsys.readouterr()
    (tiny.directory / "backbone.onnx").write_bytes(b"another")
    (tiny.directory / "golden.safetensors").unlink()
    tiny.bundle_path.write_bytes(tiny.bundle_path.read_bytes()[:-1])
    found = _problems(capsys, [str(tiny)])
    assert set(found) == {"files", "bundle"}
    assert "step 2" in found["bundle"]
    (tiny.directory / "manifest.json").write_bytes(b"{}")
    assert set(_problems(capsys, [str(tiny)])) == {"manifest"}
    assert set(_problems(capsys, [str(tiny.directory.parent / "nowhere")])) == {"manifest"}


def test_a_pipe_in_a_package_does_not_hold_the_doctor_up(
    tiny: TinyPackage, capsys: Capture
) -> None:
    path = tiny.directory / "backbone.onnx"
    path.unlink()
    os.mkfifo(path)
    assert set(_problems(capsys, [str(tiny)])) == {"files"}


def test_an_erasure_that_waits_is_finished_by_looking(
    tiny: TinyPackage, issuer: str, capsys: Capture
) -> None:
    assert main(["init", "--key", issuer]) == 0
    with Fault("replace", 1).injected():
        assert main(["forget", str(tiny), tiny.class_id("rose")]) == 1
    capsys.readouterr()
    assert set(_problems(capsys, [])) == {"erasures"}
    assert _problems(capsys, [str(tiny)]) == {}
    assert _problems(capsys, []) == {}
    assert main(["receipts", "show", tiny.class_id("rose")]) == 0


def test_what_is_wrong_with_a_state_and_can_be_mended(
    tiny: TinyPackage, issuer: str, device_state: Path, capsys: Capture
) -> None:
    assert main(["init", "--key", issuer]) == 0
    assert main(["forget", str(tiny), tiny.class_id("rose")]) == 0
    ledger = device_state / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"tombstone"', b'"tombstune"', 1) + b"torn")
    ledger.chmod(0o644)
    (device_state / ".device.key.0123456789abcdef.tmp").write_bytes(b"half a key")
    (device_state / "device.pub").write_bytes(public_to_pem(SigningKey.generate().public))
    capsys.readouterr()
    assert set(_problems(capsys, [])) == {"access", "ledger", "memory"}
    assert main(["doctor", str(tiny), "--repair"]) == 0
    repaired = [line for line in capsys.readouterr().out.splitlines() if line[:8] == "repaired"]
    assert len(repaired) == 4
    assert sorted(path.name for path in device_state.iterdir()) == [
        "device.key",
        "device.pub",
        "ledger.jsonl",
        "lock",
        "trust",
    ]
    assert _problems(capsys, [str(tiny), "--require-state"]) == {}
    assert tiny.class_id("rose") in DeviceState.open(device_state).memory.tombstones
    assert main(["classes", str(tiny)]) == 0
    assert "rose" not in capsys.readouterr().out


def test_what_only_a_person_can_mend(
    device_state: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    new_state(device_state, install())
    (device_state / "device.key").write_bytes(SigningKey.generate().to_pem())
    assert set(_problems(capsys, [])) == {"memory"}
    (device_state / "ledger.jsonl").write_bytes(b"")
    assert "backup" in _problems(capsys, [])["memory"]


def test_a_state_that_cannot_be_looked_at(
    device_state: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    new_state(device_state, install())
    real = os.open

    def refuse(path: object, *arguments: int, **options: int) -> int:
        if str(path).startswith(str(device_state)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    assert set(_problems(capsys, [])) == {"ledger", "lock", "memory"}


def test_a_lock_that_is_held_is_no_problem(device_state: Path, capsys: Capture) -> None:
    state = new_state(device_state, install())
    with state.exclusive():
        assert main(["doctor"]) == 0
    assert "held by a process" in capsys.readouterr().out


def test_a_closed_standard_error(tiny: TinyPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["doctor", str(tiny)]) == 0
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["forget", str(tiny), "rose"]) == 0  # warns of the label
