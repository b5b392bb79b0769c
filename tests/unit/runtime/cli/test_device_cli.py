"""``pfm-device`` through its ``main``: what it prints, where, and with which exit code."""

import errno
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfm_edge_runtime.cli import main
from tests.support.failing_disk import Fault
from tests.support.tiny_package import (
    LABELS,
    WIDTH,
    TinyPackage,
    quarter,
    write_tiny_package,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    directory = tmp_path / "photos"
    directory.mkdir()
    for index in range(4):
        Image.fromarray(quarter(index)).save(directory / f"{index}.png")
    (directory / "notes.txt").write_text("no image")
    (directory / ".hidden.png").write_text("no image")
    (directory / "inner").mkdir()
    return directory


def _error_line(capsys: Capture) -> str:
    """Require one line on standard error, nothing on standard output; return the line."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pfm-device: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


# --- predict


def test_predict_a_file_and_a_directory(tiny: TinyPackage, photos: Path, capsys: Capture) -> None:
    assert main(["predict", str(tiny), str(photos / "2.png"), str(photos)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [
        str(photos / name) for name in ("2.png", "0.png", "1.png", "2.png", "3.png")
    ]
    assert [row[1] for row in rows] == ["tulip", *LABELS]
    assert all(0.9 < float(row[2]) <= 1 for row in rows)


def test_predict_json(tiny: TinyPackage, photos: Path, capsys: Capture) -> None:
    assert main(["predict", str(tiny), str(photos), "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"predictions"}
    assert [row["label"] for row in found["predictions"]] == list(LABELS)
    for row in found["predictions"]:
        assert row.keys() == {"image", "class_id", "label", "score"}
        assert row["class_id"] == tiny.class_id(row["label"])


def test_predict_without_a_class(tiny: TinyPackage, photos: Path, capsys: Capture) -> None:
    assert main(["forget", str(tiny), *map(tiny.class_id, LABELS)]) == 0
    capsys.readouterr()
    assert main(["predict", str(tiny), str(photos)]) == 1
    assert "no class is left" in _error_line(capsys)


def test_a_truncated_image_and_an_empty_directory(
    tiny: TinyPackage, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    (photos / "0.png").write_bytes((photos / "0.png").read_bytes()[:40])
    assert main(["predict", str(tiny), str(photos)]) == 1
    assert "0.png" in _error_line(capsys)
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tiny), str(tmp_path / "empty")]) == 1
    assert "holds no image file" in _error_line(capsys)
    assert main(["predict", str(tiny), str(tmp_path / "missing.png")]) == 1
    assert "missing.png" in _error_line(capsys)


def test_a_file_name_does_not_steer_the_terminal(
    tiny: TinyPackage, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "a\x1b[2J\nb.png"
    Image.fromarray(quarter(0)).save(path)
    assert main(["predict", str(tiny), str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].count("\t") == 2
    path.write_bytes(b"no image")
    assert main(["predict", str(tiny), str(path)]) == 1
    assert "\x1b" not in _error_line(capsys)


# --- embed


def test_embed_json_and_file(tiny: TinyPackage, photos: Path, capsys: Capture) -> None:
    out = photos / "out.npy"
    assert main(["embed", str(tiny), str(photos), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("wrote 4 embeddings of width 4")
    stored = np.load(out, allow_pickle=False)
    assert stored.shape == (4, WIDTH)
    assert stored.dtype == np.float32
    assert main(["embed", str(tiny), str(photos)]) == 0
    rows = json.loads(capsys.readouterr().out)["embeddings"]
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], "f4"), stored)


def test_embed_into_a_full_disk(
    tiny: TinyPackage, photos: Path, capsys: Capture, tmp_path: Path
) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"old")
    with Fault("write", 1).injected():
        assert main(["embed", str(tiny), str(photos), "--out", str(out)]) == 1
    assert "No space left" in _error_line(capsys)
    assert out.read_bytes() == b"old"


# --- classes


def test_classes(tiny: TinyPackage, capsys: Capture) -> None:
    assert main(["classes", str(tiny)]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        list(row) for row in zip(tiny.bundle.class_ids, tiny.bundle.labels, strict=True)
    ]
    assert main(["classes", str(tiny), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "classes": [{"class_id": class_id, "label": label} for class_id, label in rows]
    }


def test_no_classes(tiny: TinyPackage, capsys: Capture) -> None:
    main(["forget", str(tiny), *map(tiny.class_id, LABELS)])
    capsys.readouterr()
    assert main(["classes", str(tiny)]) == 0
    assert capsys.readouterr() == ("", "no class is left: every one was forgotten\n")
    assert main(["classes", str(tiny), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"classes": []}


# --- what all commands share


@pytest.mark.parametrize("command", ["predict", "embed", "classes", "forget"])
def test_help_has_an_example_of_the_command(command: str, capsys: Capture) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "example:" in out
    assert f"  pfm-device {command} model/" in out


def test_help_and_version(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    assert "example:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pfm-device ")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["unlearn"],
        ["predict", "model"],
        ["classes"],
        ["forget", "model"],
        ["predict", "model", "image.png", "--threads", "0"],
        ["predict", "model", "image.png", "--threads", "two"],
        ["classes", "model", "--unknown"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: Capture) -> None:
    assert main(argv) == 2
    assert "usage: pfm-device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["predict", "0.png"], ["embed", "0.png"], ["classes"], ["forget", "x"]]
)
def test_bad_packages_are_one_line(
    tiny: TinyPackage, tmp_path: Path, capsys: Capture, command: list[str]
) -> None:
    name, *rest = command
    (tiny.directory / "manifest.json").write_bytes(b"{")
    for directory in (tiny.directory, tmp_path / "nowhere"):
        assert main([name, str(directory), *rest]) == 1
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if "warning" not in line]
        assert len(lines) == 1
        assert lines[0].startswith("pfm-device: error: ")
        assert captured.out == ""


@pytest.mark.parametrize(
    "argv", [["--debug", "classes", "nowhere"], ["classes", "nowhere", "--debug"]]
)
def test_debug_shows_the_traceback(argv: list[str]) -> None:
    with pytest.raises(Exception, match="nowhere"):
        main(argv)


class _Output(io.StringIO):
    """A standard output whose reader has gone, or whose disk is full."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code

    def write(self, text: str) -> int:
        raise OSError(self._code, "no output")


def test_an_output_that_fails(
    tiny: TinyPackage, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", _Output(errno.ENOSPC))
    assert main(["classes", str(tiny)]) == 1
    assert capsys.readouterr().err == (
        "pfm-device: error: the output cannot be written: no output\n"
    )
    assert main(["forget", str(tiny), tiny.class_id("rose")]) == 1
    assert "the classes are forgotten all the same: pfm-device receipts" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", _Output(errno.EPIPE))
    assert main(["classes", str(tiny)]) == 1
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["classes", str(tiny)]) == 0


def test_labels_of_any_script_pass_a_terminal_that_knows_none(
    tiny: TinyPackage, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    renamed = photos / "日本.png"
    (photos / "0.png").rename(renamed)
    assert main(["predict", str(tiny), str(renamed)]) == 0
    assert rb"\u65e5\u672c.png" in narrow.buffer.getvalue()  # type: ignore[attr-defined]
