"""`pfm-device forget` through main(argv): what it takes and says, and a disk that refuses."""

import base64
import io
import json
import re
import sys
from pathlib import Path

import pytest

from pfm_edge_runtime.cli import main
from pfm_edge_runtime.package import ModelPackage
from tests.support.failing_disk import Fault
from tests.support.tiny_package import LABELS, TinyPackage, write_tiny_package

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def _error_line(capsys: Capture) -> str:
    """Require one line on standard error, nothing on standard output; return the line."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pfm-device: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def _standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def _left(tiny: TinyPackage) -> set[str]:
    return set(ModelPackage.open(tiny.directory).bundle.labels)


def test_forget_by_id_says_nothing_on_standard_error(tiny: TinyPackage, capsys: Capture) -> None:
    assert main(["forget", str(tiny), tiny.class_id("rose"), tiny.class_id("daisy")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines()[:2] == [
        f"forgotten: {tiny.class_id('rose')} (erased, with a receipt)",
        f"forgotten: {tiny.class_id('daisy')} (erased, with a receipt)",
    ]
    assert _left(tiny) == {"tulip", "violet"}


def test_forget_by_label_warns_once_and_repeats_no_label(
    tiny: TinyPackage, capsys: Capture
) -> None:
    assert main(["forget", str(tiny), "rose", "daisy"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning") == 1
    assert captured.err.count("\n") == 1
    assert not {"rose", "daisy"} & set(f"{captured.out} {captured.err}".split())
    assert _left(tiny) == {"tulip", "violet"}


@pytest.mark.parametrize("data", [b"rose\ndaisy\n", b"\xef\xbb\xbfrose\r\n\r\ndaisy"])
def test_forget_from_standard_input(
    tiny: TinyPackage, capsys: Capture, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    _standard_input(monkeypatch, data)
    assert main(["forget", str(tiny), "-", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    rose, daisy = found["forgotten"]
    assert (rose["class_id"], daisy["class_id"]) == (tiny.class_id("rose"), tiny.class_id("daisy"))
    assert rose["erased"]
    assert rose["receipt"]["payloadType"] == "application/vnd.in-toto+json"
    assert not {"rose", "daisy"} & set(re.findall("[a-z]+", captured.out))
    assert found["bytes_before"] > found["bytes_after"] == tiny.bundle_path.stat().st_size
    assert found["seconds"] > 0
    assert _left(tiny) == {"tulip", "violet"}


@pytest.mark.parametrize(
    ("data", "message"), [(b"\n\r\n", "empty"), (b"", "empty"), (b"\xff\n", "no UTF-8")]
)
def test_forget_from_a_bad_standard_input(
    tiny: TinyPackage,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    message: str,
) -> None:
    _standard_input(monkeypatch, data)
    assert main(["forget", str(tiny), "-"]) == 1
    assert message in _error_line(capsys)
    assert _left(tiny) == set(LABELS)


def test_forget_from_a_closed_standard_input(
    tiny: TinyPackage, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["forget", str(tiny), "-"]) == 1
    assert "cannot be read" in _error_line(capsys)
    assert main(["forget", str(tiny), "rose", "-"]) == 1
    assert "give it alone" in _error_line(capsys)


def test_forget_an_unknown_class(
    tiny: TinyPackage, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _standard_input(monkeypatch, b"Tulpi\n")
    assert main(["forget", str(tiny), "-"]) == 1
    line = _error_line(capsys)
    assert "pfm-device classes lists them" in line
    assert "tul" not in line.lower()  # it may be forgotten next, and the line is in a log
    assert _left(tiny) == set(LABELS)


@pytest.mark.parametrize("fault", [Fault("write", 1), Fault("fsync", 1)], ids=str)
def test_forget_on_a_disk_that_refuses_the_tombstone(
    tiny: TinyPackage, capsys: Capture, fault: Fault
) -> None:
    before = tiny.bundle_path.read_bytes()
    assert main(["classes", str(tiny)]) == 0  # the device's memory is there
    capsys.readouterr()
    with fault.injected():
        assert main(["forget", str(tiny), tiny.class_id("rose")]) == 1
    assert "nothing changed" in _error_line(capsys)
    assert tiny.bundle_path.read_bytes() == before
    assert _left(tiny) == set(LABELS)


@pytest.mark.parametrize("fault", [Fault("replace", 1), Fault("pwrite", 1)], ids=str)
def test_forget_on_a_disk_that_refuses_the_erasure(
    tiny: TinyPackage, capsys: Capture, fault: Fault
) -> None:
    assert main(["classes", str(tiny)]) == 0
    capsys.readouterr()
    with fault.injected():
        assert main(["forget", str(tiny), tiny.class_id("rose")]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"forgotten: {tiny.class_id('rose')} (refused, not yet erased)")
    assert captured.err.count("\n") == 1
    assert "1 of 1 forgotten, not yet erased: " in captured.err
    # The next open erases it, and the same command gives the receipt.
    assert main(["classes", str(tiny)]) == 0
    assert "rose" not in capsys.readouterr().out
    assert _left(tiny) == set(LABELS) - {"rose"}
    assert main(["forget", str(tiny), tiny.class_id("rose")]) == 0
    assert "(erased, with a receipt)" in capsys.readouterr().out


def test_forget_on_order_of_somebody(tiny: TinyPackage, capsys: Capture) -> None:
    rose = tiny.class_id("rose")
    assert main(["forget", str(tiny), rose, "--order", "2026-0117", "--json"]) == 0
    receipt = json.loads(capsys.readouterr().out)["forgotten"][0]["receipt"]
    statement = json.loads(base64.b64decode(receipt["payload"]))
    assert statement["predicate"]["order"]["id"] == "2026-0117"
    assert main(["forget", str(tiny), tiny.class_id("daisy"), "--order", "for Ms Rose"]) == 1
    assert "order" in _error_line(capsys)


def test_forget_where_a_memory_is_required(
    tiny: TinyPackage, tmp_path: Path, capsys: Capture
) -> None:
    options = ["--require-state", "--state", str(tmp_path / "state")]
    assert main(["forget", str(tiny), tiny.class_id("rose"), *options]) == 1
    assert "pfm-device init" in _error_line(capsys)
    assert not (tmp_path / "state").exists()
