"""``pfm-device update`` and what it needs of ``init``, as commands and as a process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.errors import BackendError
from pfm_edge_runtime.keys import SigningKey, public_to_pem
from pfm_edge_runtime.variants import VariantGraph
from tests.support.ota_server import Exchange, FileServer, captive_portal
from tests.support.tiny_package import LABELS, TinyPackage, write_tiny_package
from tests.support.tuf_repository import Publisher

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


@pytest.fixture
def publisher(tmp_path: Path, tiny: TinyPackage) -> Publisher:
    made = Publisher.create(tmp_path / "repo", tiny, lasting=True)
    (tmp_path / "root.json").write_bytes(made.root)
    return made


@pytest.fixture
def server(publisher: Publisher) -> Iterator[FileServer]:
    with FileServer(publisher.public) as made:
        yield made


def _json(capsys: Capture, code: int, *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["update", "--json", *arguments]) == code
    return json.loads(capsys.readouterr().out)


def test_from_init_to_a_receipt(
    tiny: TinyPackage, publisher: Publisher, server: FileServer, tmp_path: Path, capsys: Capture
) -> None:
    root, model = str(tmp_path / "root.json"), str(tiny)
    assert main(["update", model, "--repo", server.url]) == 1
    assert "pfm-device init" in capsys.readouterr().err
    assert main(["init", "--root", root, "--cohort", "beta", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["repository"] == {"root_version": 1, "cohort": "beta"}
    assert (found["trust"], found["bound"]) == (None, True)
    publisher.publish(sequence=2)
    report = _json(capsys, 0, model, "--repo", server.url, "--require-state")
    assert (report["outcome"], report["place"]) == ("updated", {"epoch": 1, "sequence": 2})
    assert main(["predict", "--require-state", model, str(_image(tmp_path))]) == 0
    publisher.forget([tiny.class_id("rose"), "ab" * 16])  # type: ignore[list-item]
    (tmp_path / "in").mkdir()
    report = _json(
        capsys, 0, model, "--from", str(publisher.public), "--receipts", str(tmp_path / "in")
    )
    assert report["outcome"] == "up-to-date"
    assert report["forget_list"] == {"number": 2, "rows": 2, "applied": 1, "absent": 1}
    assert report["receipts"] == {"sent": 2, "waiting": 0}
    for path in (tmp_path / "in").iterdir():
        key = str(Path(os.environ["PFM_EDGE_STATE"]) / "device.pub")
        assert main(["receipts", "verify", str(path), "--key", key]) == 0
    out = capsys.readouterr().out
    assert "outcome\tabsent" in out
    assert "outcome\terased" in out
    assert not [label for label in LABELS if label in out]


def _image(folder: Path) -> Path:
    from PIL import Image

    from tests.support.tiny_package import quarter

    path = folder / "image.png"
    Image.fromarray(quarter(1)).save(path)
    return path


def test_a_graph_that_cannot_run_just_now_is_tried_again(
    tiny: TinyPackage,
    publisher: Publisher,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(self: VariantGraph, *_: object) -> None:
        raise BackendError("onnxruntime: std::bad_alloc")

    assert main(["init", "--root", str(tmp_path / "root.json")]) == 0
    publisher.publish(sequence=2)
    monkeypatch.setattr(VariantGraph, "run_arranged", no_memory)
    for code, outcome in ((75, "failed"), (75, "failed"), (1, "rejected")):
        report = _json(capsys, code, str(tiny), "--from", str(publisher.public))
        assert report["outcome"] == outcome


def test_what_is_left_to_do_is_in_the_exit_code(
    tiny: TinyPackage, publisher: Publisher, server: FileServer, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["init", "--root", str(tmp_path / "root.json")]) == 0
    model = str(tiny)
    report = _json(capsys, 1, model, "--repo", server.url)
    assert "no channel for model" in report["problem"]
    server.answers["*"] = captive_portal
    report = _json(capsys, 75, model, "--repo", server.url)
    assert "login" in report["problem"]
    assert report["outcome"] == "failed"
    _json(capsys, 75, model, "--repo", "http://127.0.0.1:1", "--timeout", "1")
    _json(capsys, 1, model, "--from", str(tmp_path / "nothing"))
    capsys.readouterr()
    for wrong in (
        ["update", model],
        ["update", model, "--repo", "x", "--from", "y"],
        ["update", model, "--repo", "http://h", "--every", "soon"],
        ["update", model, "--repo", "http://h", "--every", "5m", "--once"],
        ["update", model, "--repo", "http://h", "--max-bytes", "0"],
    ):
        assert main(wrong) == 2
    assert main(["update", model, "--repo", "ftp://h"]) == 1
    assert main(["update", model, "--repo", "http://h", "--cohort", "A B"]) == 1
    server.forget_requests()
    for place in ("ftp://x/", "http://["):
        capsys.readouterr()
        assert main(["update", model, "--repo", server.url, "--receipts", place]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert server.gets == []  # it is said before anything is done
    assert "Traceback" not in capsys.readouterr().err


def test_a_place_for_receipts_that_is_away_holds_up_no_order(
    tiny: TinyPackage, publisher: Publisher, server: FileServer, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["init", "--root", str(tmp_path / "root.json")]) == 0
    publisher.publish(sequence=2)
    stick = tmp_path / "stick"
    ask = [str(tiny), "--repo", server.url, "--receipts", str(stick)]
    report = _json(capsys, 1, *ask)  # said at once, not at the first receipt
    assert (report["outcome"], report["problem"][-20:]) == ("updated", "make it, or mount it")
    publisher.forget([tiny.class_id("rose")])
    report = _json(capsys, 1, *ask)
    assert report["forget_list"]["applied"] == report["receipts"]["waiting"] == 1
    stick.mkdir()
    assert _json(capsys, 0, *ask)["receipts"] == {"sent": 1, "waiting": 0}
    assert len([*stick.iterdir()]) == 1


def test_a_list_that_was_obeyed_is_told_though_the_update_failed(
    tiny: TinyPackage, publisher: Publisher, server: FileServer, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["init", "--root", str(tmp_path / "root.json")]) == 0
    publisher.forget([tiny.class_id("rose")])
    assert main(["classes", str(tiny)]) == 0
    assert main(["update", str(tiny), "--repo", server.url]) == 1
    captured = capsys.readouterr()
    assert "forget list\tnumber 2, 1 class: 1 forgotten here just now" in captured.out
    assert captured.err.count("\n") == 1
    assert "no channel" in captured.err


def test_the_root_of_another_repository_needs_a_word(
    tiny: TinyPackage, publisher: Publisher, tmp_path: Path, capsys: Capture
) -> None:
    other = Publisher.create(tmp_path / "other", tiny)
    (tmp_path / "other.json").write_bytes(other.root)
    root, another = str(tmp_path / "root.json"), str(tmp_path / "other.json")
    assert main(["init", "--cohort", "beta"]) == 1
    assert "add --root" in capsys.readouterr().err
    assert main(["init", "--root", root]) == 0
    assert main(["init", "--root", root, "--cohort", "beta"]) == 0
    assert main(["init", "--root", another]) == 1
    assert "--replace-trust" in capsys.readouterr().err
    assert main(["init", "--replace-trust", "--root", another]) == 0
    publisher.publish(sequence=2)
    assert main(["update", str(tiny), "--from", str(publisher.public)]) == 1
    assert "was signed by" in capsys.readouterr().err
    (tmp_path / "issuer.pub").write_bytes(public_to_pem(SigningKey.generate().public))
    assert main(["init", "--root", str(tmp_path / "issuer.pub")]) == 1
    assert "no root that can be trusted" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    tiny: TinyPackage,
    publisher: Publisher,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["init", "--root", str(tmp_path / "root.json")]) == 0
    publisher.publish(sequence=2)
    assert main(["update", str(tiny), "--from", str(publisher.public)]) == 0
    (tmp_path / "list.json").write_bytes(publisher.forget([tiny.class_id("rose")]))
    capsys.readouterr()
    for name in ("tuf", "tuf.ngclient", "urllib3"):
        monkeypatch.setitem(sys.modules, name, None)
    for where in (["--repo", "http://h"], ["--from", str(publisher.public)]):
        assert main(["update", str(tiny), *where]) == 1
        assert "pip install 'pfm-edge-runtime[ota]'" in capsys.readouterr().err
    # The second of them has obeyed the list all the same, and a list alone needs no extra.
    assert main(["update", str(tiny), "--from", str(tmp_path / "list.json")]) == 0
    assert "0 forgotten here just now, 0 new" in capsys.readouterr().out


def test_a_process_that_polls_survives_everything_and_ends_when_told(
    tiny: TinyPackage, publisher: Publisher, server: FileServer, tmp_path: Path
) -> None:
    assert main(["init", "--root", str(tmp_path / "root.json")]) == 0
    publisher.publish(sequence=2)
    command = [sys.executable, "-m", "pfm_edge_runtime.cli", "update", "--json", str(tiny)]
    with subprocess.Popen(
        [*command, "--repo", server.url, "--every", "1s", "--timeout", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["outcome"] == "updated"
        server.answers["metadata/*"] = captive_portal
        outcomes = [json.loads(process.stdout.readline())["outcome"] for _ in range(2)]
        assert "failed" in outcomes
        server.answers.clear()
        publisher.publish(sequence=3)
        while json.loads(process.stdout.readline())["outcome"] != "updated":
            continue
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "login" in process.stderr.read()


@pytest.mark.parametrize(("waits_for", "often"), [("answer", True), ("pause", False)])
def test_a_process_that_waits_ends_at_once_when_told(
    server: FileServer, tiny: TinyPackage, tmp_path: Path, waits_for: str, often: bool
) -> None:
    told, code = (signal.SIGTERM, 0) if often else (signal.SIGINT, 75)
    assert main(["init", "--root", str(tmp_path / "root.json")]) == 0
    asked = threading.Event()

    def hang(exchange: Exchange) -> None:
        asked.set()
        if waits_for == "answer":
            exchange.waiting(30)
        else:
            exchange.begin(503, ("Retry-After", "50"), ("Content-Length", "0"))

    server.answers["metadata/timestamp.json"] = hang
    command = [sys.executable, "-m", "pfm_edge_runtime.cli", "update", str(tiny)]
    with subprocess.Popen(
        [*command, "--repo", server.url, *(["--every", "1h"] if often else [])],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert asked.wait(30)
        time.sleep(0.2)  # an answer takes its way
        process.send_signal(told)
        begun = time.monotonic()
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - begun < 10  # of 30, and of 50
    assert process.returncode == code
    assert said.count("\n") == 1
    assert "stopped" in said
