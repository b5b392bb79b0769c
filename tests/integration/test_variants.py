"""Packages with several graphs through ``pfm-device``, here and on the oldest ONNX Runtime."""

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfm_edge_runtime.cli import main
from tests.support.environments import RUNTIME, environment, run
from tests.support.tiny_package import LABELS, TinyPackage, quarter
from tests.support.tiny_variants import BYTES, DYNAMIC, FIXED, HALF, STATIC, write_variants

_ALL = (DYNAMIC, STATIC, FIXED, HALF, BYTES)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_variants(tmp_path / "model", _ALL, dtype="uint8")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    directory = tmp_path / "photos"
    directory.mkdir()
    for index in range(20):
        Image.fromarray(quarter(index % 4)).save(directory / f"{index:02}.png")
    return directory


def test_predict_and_embed_with_any_graph(
    tiny: TinyPackage, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    choices = [["--variant", each.file] for each in _ALL]
    choices += [["--precision", each] for each in ("fp32", "fp16", "int8")]
    embeddings = []
    for index, choice in enumerate(choices):
        assert main(["predict", str(tiny), str(photos), "--json", *choice]) == 0
        found = json.loads(capsys.readouterr().out)["predictions"]
        assert [row["label"] for row in found] == list(LABELS) * 5
        out = tmp_path / f"{index}.npy"
        assert main(["embed", str(tiny), str(photos), "--out", str(out), *choice]) == 0
        capsys.readouterr()
        embeddings.append(np.load(out))
    for each in embeddings:
        np.testing.assert_allclose(each, embeddings[0], atol=5e-3)


def test_a_graph_that_is_not_there_is_one_line(
    tiny: TinyPackage, photos: Path, capsys: Capture
) -> None:
    assert main(["predict", str(tiny), str(photos), "--variant", "backbone.fp61.onnx"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("pfm-device: error: ")
    assert "did you mean 'backbone.fp16.onnx'?" in captured.err
    assert captured.err.count("\n") == 1
    assert main(["predict", str(tiny), str(photos), "--precision", "bf16"]) == 2
    assert "fp32" in capsys.readouterr().err


def _graphs(capsys: Capture, code: int, *arguments: object) -> list[dict[str, str]]:
    assert main(["doctor", "--json", *map(str, arguments)]) == code
    checks = json.loads(capsys.readouterr().out)["checks"]
    return [each for each in checks if each["name"] == "graph"]


def test_the_doctor_runs_every_graph(tiny: TinyPackage, tmp_path: Path, capsys: Capture) -> None:
    found = _graphs(capsys, 0, tiny)
    assert [each["finding"].split()[0] for each in found] == [each.file for each in _ALL]
    assert {each["status"] for each in found} == {"ok"}
    assert {each["package"] for each in found} == {str(tiny)}
    # The graph of a package whose image is float32, listed with its digest: it is another one.
    other = write_variants(tmp_path / "other", _ALL)
    graphs = {STATIC.file: (other.directory / STATIC.file).read_bytes()}
    bad = write_variants(tmp_path / "bad", _ALL, dtype="uint8", graphs=graphs)
    (wrong,) = [e for e in _graphs(capsys, 1, tiny, bad) if e["status"] == "problem"]
    assert wrong["package"] == str(bad)
    assert "image is uint8: the graph takes float32" in wrong["finding"]


def test_the_doctor_runs_nothing_that_was_altered(tiny: TinyPackage, capsys: Capture) -> None:
    path = tiny.directory / HALF.file
    path.write_bytes(path.read_bytes() + b" ")
    assert _graphs(capsys, 1, tiny) == []


def test_on_the_oldest_onnx_runtime(tiny: TinyPackage, photos: Path) -> None:
    """JetPack 6's generation: onnxruntime 1.18.1, numpy 1; the profile has the same form there."""
    python = environment([RUNTIME, "onnxruntime==1.18.1", "numpy<2"], constraints=False)
    code = """
        import json, sys
        import onnxruntime
        from pfm_edge_runtime import Classifier
        from pfm_edge_runtime.graph_checks import examine_graphs
        from pathlib import Path
        package, photo = sys.argv[1:3]
        checks = [(each.status, each.finding) for each in examine_graphs(Path(package))]
        found = [
            Classifier.open(package, variant=variant).predict(photo).label
            for variant in sys.argv[3:]
        ]
        print(json.dumps([onnxruntime.__version__, checks, found]))
    """
    files = [each.file for each in _ALL]
    arguments = [str(tiny), str(photos / "02.png"), *files]
    command = [str(python), "-W", "error", "-c", textwrap.dedent(code), *arguments]
    version, checks, found = json.loads(run(command))
    assert version == "1.18.1"
    assert [status for status, _ in checks] == ["ok"] * len(_ALL)
    assert all("CPUExecutionProvider executed" in finding for _, finding in checks)
    assert found == ["tulip"] * len(_ALL)
