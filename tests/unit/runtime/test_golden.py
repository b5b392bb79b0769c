"""Golden vectors where there is no torch: every graph, and what is wrong with the file."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pfm_edge_runtime.agreement import TOLERANCES, Difference, Tolerance, difference
from pfm_edge_runtime.backends import Outputs, load_backend
from pfm_edge_runtime.bundle import read_tensors, write_tensors
from pfm_edge_runtime.errors import BackendError, PackageError
from pfm_edge_runtime.golden import read_golden, run_golden
from pfm_edge_runtime.manifest import PixelType, Variant
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.variants import load_variant
from tests.support.tiny_package import TinyPackage, tiny_golden, tiny_manifest
from tests.support.tiny_variants import BYTES, DYNAMIC, FIXED, HALF, STATIC, write_variants

_ALL = (DYNAMIC, STATIC, FIXED, HALF, BYTES)


@pytest.fixture(params=["float32", "uint8"])
def files(tmp_path: Path, request: pytest.FixtureRequest) -> PackageFiles:
    tiny = write_variants(tmp_path / "model", _ALL, dtype=request.param)
    return PackageFiles.open(tiny.directory)


@pytest.mark.parametrize("variant", _ALL, ids=lambda each: each.file)
def test_every_graph_computes_them(files: PackageFiles, variant: Variant) -> None:
    golden = read_golden(files)
    assert golden.images.dtype == files.manifest.image.dtype
    graph = load_variant(files, variant, load_backend("onnxruntime"), threads=1)
    rows = run_golden(golden, graph)
    fitting = [count for count in (1, 2, 7) if count <= (variant.capacity or 7)]
    points = [(batch, count) for count in fitting for batch in (1, 2, 5)]
    assert [(row.batch, row.classes) for row in rows] == points
    assert all(row.difference.within(TOLERANCES[variant.precision]) for row in rows)
    # A rounded graph is told from an exact one, so the vectors prove something.
    exact = max(row.difference.worst for row in rows) < 1e-5
    assert exact == (variant.precision == "fp32")


def _golden_of(tiny: TinyPackage, data: bytes) -> PackageFiles:
    (tiny.directory / "golden.safetensors").write_bytes(data)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    manifest = replace(tiny.manifest, files={**tiny.manifest.files, "golden.safetensors": digest})
    (tiny.directory / "manifest.json").write_bytes(manifest.to_bytes())
    return PackageFiles.open(tiny.directory)


Tensors = dict[str, NDArray[np.float32]]


def _changed(change: Callable[[Tensors], object], dtype: PixelType = "float32") -> bytes:
    tensors, metadata = read_tensors(tiny_golden(tiny_manifest({"backbone.onnx": b""}).model_id))
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(tensors)
    return write_tensors(tensors, metadata)


_DEFECTS: dict[str, tuple[bytes, str]] = {
    "no container": (b"golden", "export the package again"),
    "of another model": (write_tensors({}, {"model_id": "x", "pfm_golden": "1"}), "another model"),
    "without an input": (_changed(lambda t: t.pop("c2.input.class_bias")), "asks for"),
    "with one more": (_changed(lambda t: t.update(x=np.zeros(1, np.float32))), "asks for"),
    "without an embedding": (_changed(lambda t: t.pop("c7.output.embedding")), "lacks the embed"),
    "of four images": (
        _changed(lambda t: t.update(image=t["image"][:4])),
        "asks for",
    ),
}


@pytest.mark.parametrize(("data", "message"), _DEFECTS.values(), ids=_DEFECTS.keys())
def test_a_file_that_is_not_what_it_should_be(tmp_path: Path, data: bytes, message: str) -> None:
    tiny = write_variants(tmp_path / "model", (DYNAMIC,))
    with pytest.raises(PackageError, match=message) as caught:
        read_golden(_golden_of(tiny, data))
    assert "\n" not in str(caught.value)
    assert "golden.safetensors" in str(caught.value)


def test_pixels_must_be_pixels(tmp_path: Path) -> None:
    tiny = write_variants(tmp_path / "model", (DYNAMIC,), dtype="uint8")
    for value in (-1, 256, 0.5, np.nan):
        files = _golden_of(tiny, _changed(lambda t, v=value: t["image"].fill(v)))
        with pytest.raises(PackageError, match="no pixels"):
            read_golden(files)


def test_a_package_without_or_with_an_altered_file(tmp_path: Path) -> None:
    tiny = write_variants(tmp_path / "model", (DYNAMIC,))
    files = PackageFiles.open(tiny.directory)
    path = tiny.directory / "golden.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(PackageError, match="not the file that"):
        read_golden(files)
    path.unlink()
    with pytest.raises(PackageError, match="golden"):
        read_golden(files)
    bare = replace(tiny.manifest, files={"backbone.onnx": tiny.manifest.files["backbone.onnx"]})
    with pytest.raises(PackageError, match="not listed"):
        read_golden(replace(files, manifest=bare))


def test_a_graph_that_fails_says_where(files: PackageFiles) -> None:
    graph = load_variant(files, DYNAMIC, load_backend("onnxruntime"), threads=1)
    golden = read_golden(files)
    with pytest.raises(BackendError, match=r"for 1 image and 1 class: .*float16"):
        run_golden(replace(golden, images=golden.images.astype(np.float16)), graph)


# --- how far is too far


def _outputs(logits: object, embedding: object) -> Outputs:
    return Outputs(np.array(logits, np.float32), np.array(embedding, np.float32))


def test_differences_worked_out_by_hand() -> None:
    one = _outputs([[1, 2]], [[3, 4], [0, 0]])
    two = _outputs([[1, 2.5]], [[4, 3], [0, 0]])
    found = difference(one, two)
    assert (found.logits, found.embedding) == (0.5, 1.0)
    assert found.cosine == pytest.approx(2 * 24 / 50)
    assert difference(one, one) == Difference(0, 0, 1)
    # Twice as long points the same way, and is not alike.
    assert difference(one, _outputs([[1, 2]], [[6, 8], [0, 0]])).cosine == pytest.approx(0.8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_the_same(bad: float) -> None:
    found = difference(_outputs([[1]], [[1]]), _outputs([[1]], [[bad]]))
    assert not any(found.within(each) for each in TOLERANCES.values())
    assert found.against(TOLERANCES["fp32"]) == "the embedding values are not finite"


def test_what_is_said_of_a_difference() -> None:
    found = Difference(logits=2e-3, embedding=1e-3, cosine=0.5)
    exact = Tolerance(absolute=1e-4)
    assert found.against(exact) == "the logits values differ by 2.0e-03 (tolerance 1e-04)"
    assert found.against(Tolerance(cosine=0.9)) == "the cosine is 0.50000 (tolerance 0.9)"
    assert str(Tolerance(cosine=0.9)) == "cosine 0.9"
    assert Tolerance(cosine=0.9).as_dict() == {"absolute": None, "cosine": 0.9}


def test_other_shapes_are_refused() -> None:
    with pytest.raises(BackendError, match=r"logits as \[1, 1\], not \[1, 2\]"):
        difference(_outputs([[1, 2]], [[1]]), _outputs([[1]], [[1]]))
