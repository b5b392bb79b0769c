"""`pfm-edge ota`, through main(argv): what a person types, reads, and gets wrong."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pfm_edge.cli import main
from pfm_edge_runtime.keys import SigningKey, public_to_pem
from tests.support.publisher import CLASS_IDS, make_registry
from tests.support.tiny_package import MODEL_ID, write_tiny_package

ROSE = CLASS_IDS["rose"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a registry and a package; it is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    make_registry(tmp_path)
    write_tiny_package(tmp_path / "model")
    return tmp_path


@pytest.fixture
def repo(place: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["ota", "init", "repo", "--registry", "classes.json", "--new-keys", "keys"]) == 0
    capsys.readouterr()
    return place / "repo"


def _json(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main(["ota", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _new_key(name: str) -> str:
    assert main(["keys", "new", f"{name}.pem"]) == 0
    return f"{name}.pem"


def test_from_init_to_a_fleet_status(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, "publish", "repo", "model")["committed"]
    rolled = _json(capsys, "publish", "repo", "model", "--rollout", "10", "--cohort", "lab")
    assert "for 10 % of the devices of lab" in " ".join(rolled["notes"])
    _json(capsys, "rollout", "repo", MODEL_ID, "stop")
    forgotten = _json(capsys, "forget", "repo", "--class", ROSE, "--order", "17")
    assert ROSE in " ".join(forgotten["notes"])
    Path("camera.pub").write_bytes(public_to_pem(SigningKey.generate().public))
    assert main(["ota", "enrol", "repo", "camera.pub"]) == 0
    device = capsys.readouterr().out.strip()
    Path("receipts").mkdir()
    status = _json(capsys, "status", "repo", "--receipts", "receipts", "--html", "s.html")
    assert status["roles"][0]["role"] == "root"
    assert status["models"][0]["stable"] == "1-4"
    assert status["fleet"]["orders"][0]["waiting"] == [device]
    assert b"It is no proof" in Path("s.html").read_bytes()
    assert main(["ota", "status", "repo", "--receipts", "receipts"]) == 0
    shown = capsys.readouterr()
    assert "0 of 1" in shown.out
    assert "no proof" in shown.err
    refreshed = _json(capsys, "refresh", "repo")
    assert refreshed == {
        "fresh": True,
        "signed": ["timestamp"],
        "left": [],
        "mended": [],
        "lost": [],
        "strays": [],
    }


def test_two_people_from_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("alice", "bob", "targets", "bundles", "forget", "online"):
        _new_key(name)
    keys = ["--root-key", "alice.pub", "--root-key", "bob.pub"]
    for role in ("targets", "bundles", "forget"):
        keys += [f"--{role}-key", f"{role}.pem"]
    keys += ["--snapshot-key", "online.pem", "--timestamp-key", "online.pem"]
    assert main(["ota", "init", "repo", "--registry", "classes.json", *keys]) == 0
    waiting = capsys.readouterr().err
    assert "root: metadata needs 2 more signatures" in waiting
    shutil.copytree("repo/pending", "stick/pending")
    assert main(["ota", "sign", "stick/pending", "--key", "alice.pem"]) == 0
    assert "bring it back" in capsys.readouterr().err
    assert main(["ota", "sign", "repo", "--from", "stick/pending", "--key", "bob.pem"]) == 0
    assert Path("repo/public/metadata/timestamp.json").exists()


def test_labels_come_by_standard_input_and_are_never_repeated(
    repo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(buffer=io.BytesIO(b"rose\n"), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", answer)
    assert main(["ota", "forget", "repo", "--class", "-"]) == 0
    shown = capsys.readouterr()
    assert ROSE in shown.out
    assert "rose" not in shown.out + shown.err
    assert "pfm-edge forget RUN" in shown.err


def test_a_key_is_rotated_and_the_old_one_is_gone(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roles = {each["role"]: each for each in _json(capsys, "status", "repo")["roles"]}
    [old] = roles["timestamp"]["keys"]
    key = _new_key("new")
    capsys.readouterr()
    _json(capsys, "rotate-key", "repo", "timestamp", "--add", key, "--remove", old[:12])
    Path("keys/timestamp.pem").unlink()
    assert _json(capsys, "refresh", "repo")["fresh"]


@pytest.mark.parametrize(
    ("argv", "code", "match"),
    [
        (["publish", "nowhere", "model"], 1, "make one with pfm-edge ota init"),
        (["publish", "repo", "nothing"], 1, "no such file"),
        (["publish", "repo", "model", "--rollout", "0"], 1, "1 to 100"),
        (["publish", "repo", "model", "--not-before", "tomorrow"], 1, "no time in UTC"),
        (["publish", "repo", "model", "--cohort", "Lab!"], 1, "cohort's name"),
        (["publish", "repo", "model", "--key", "keys/bundles.pub"], 1, "give the private one"),
        (["forget", "repo", "--class", "ab" * 16], 1, "--unknown"),
        (["forget", "repo", "--class", ROSE, "--reason", "whim"], 1, "a reason is one of"),
        (["forget", "repo", "--class", ROSE, "--order", "Jane Doe"], 1, "nobody's words|anybody's"),
        (["rollout", "repo", "5e5e5e", "50"], 1, "no model"),
        (["rotate-key", "repo", "king"], 2, "the roles are"),
        (["rotate-key", "repo", "root"], 1, "say what changes"),
        (["sign", "repo"], 1, "no change waits"),
        (["enrol", "repo"], 2, "name the public key"),
        (["enrol", "repo", "keys/root-1.pem"], 1, "private key"),
        (["status", "repo", "--receipts", "nowhere"], 1, "cannot be read"),
        (["status", "repo", "--html", "x.html"], 2, "needs --receipts"),
        (["init", "repo", "--registry", "classes.json", "--new-keys", "k"], 1, "already"),
        (["init", "model", "--registry", "classes.json", "--new-keys", "k"], 1, "not empty"),
        (["init", "r2", "--registry", "none.json", "--new-keys", "k"], 1, "no class registry"),
        (["init", "r2", "--registry", "classes.json"], 1, "root: a threshold of 2"),
        (["init", "r2", "--registry", "classes.json", "--days", "king=1"], 2, "ROLE=N"),
        (["init", "r2", "--registry", "classes.json", "--days", "root=\u00b2"], 2, "ROLE=N"),
        (["init", "r2", "--registry", "classes.json", "--days", "root=9999999"], 2, "ROLE=N"),
        (["status", "repo", "--receipts", "keys", "--late-after", "9999999"], 2, "late-after"),
    ],
)
def test_what_goes_wrong_ends_in_one_line(
    repo: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    code: int,
    match: str,
) -> None:
    assert main(["ota", *argv]) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    lines = [each for each in shown.err.splitlines() if "error" in each.lower() or code == 2]
    assert any(part in shown.err for part in match.split("|")), shown.err
    assert code == 2 or len(lines) == 1


def test_a_lost_file_ends_refresh_and_status_with_one(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _json(capsys, "publish", "repo", "model")
    (repo / "public/root.json").unlink()
    [bundle] = repo.rglob("*.safetensors")
    bundle.unlink()
    for command, said in (("status", "refresh puts it back"), ("refresh", "and is put back")):
        assert main(["ota", command, "repo"]) == 1
        shown = capsys.readouterr().err.splitlines()
        assert "root.json" in shown[0]
        assert said in shown[0]
        assert bundle.name in shown[1]
        assert "publish its classes again" in shown[1]
        assert "see the lines above" in shown[2]


def test_a_file_that_is_none_of_ours_ends_refresh_and_status_with_one(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repo / "public/targets/model.safetensors.bak").write_bytes(b"a class, for all we know")
    for command in ("status", "refresh"):
        assert main(["ota", command, "repo"]) == 1
        shown = capsys.readouterr().err.splitlines()
        assert "model.safetensors.bak" in shown[0]
        assert "see the lines above" in shown[1]


def test_an_older_copy_goes_on_when_it_is_told_to(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(repo, "backup")
    _json(capsys, "forget", "repo", "--class", ROSE)
    shutil.rmtree(repo)
    shutil.copytree("backup", repo)
    for command in ("status", "refresh"):
        assert main(["ota", command, "repo"]) == 1
        assert "pfm-edge ota refresh REPO --restored" in capsys.readouterr().err
    restored = _json(capsys, "refresh", "repo", "--restored")
    assert any(ROSE in each and "ordered again" in each for each in restored["notes"])
    assert _json(capsys, "status", "repo")["problems"] == []
    assert main(["ota", "refresh", "repo", "--above", "50"]) == 2
    assert _json(capsys, "refresh", "repo", "--restored", "--above", "50")["committed"]
    roles = {each["role"]: each["version"] for each in _json(capsys, "status", "repo")["roles"]}
    assert roles["timestamp"] == 51


def test_a_damaged_repository_is_said_to_be(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("metadata/targets.json", "repository.json"):
        (repo / name).write_bytes(b"{")
        assert main(["ota", "status", "repo"]) == 1
        assert name in capsys.readouterr().err
