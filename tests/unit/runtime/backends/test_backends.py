"""The backend on a real ONNX Runtime: equal to NumPy, bound by name, no foreign exception."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from pfm_edge_runtime.errors import BackendError, BackendUnavailableError
from tests.support.tiny_package import (
    CLASS_INPUTS,
    IMAGE,
    WIDTH,
    class_tensors,
    reference,
    tiny_graph,
)
from tests.support.tiny_variants import STATIC, variant_graph

FloatArray = NDArray[np.float32]


def _tensors(count: int) -> dict[str, FloatArray]:
    slices = [class_tensors(index) for index in range(count)]
    return {
        each.name: np.stack([found[each.name] for found in slices], axis=each.class_axis)
        if slices
        else np.zeros(each.graph_shape(0), np.float32)
        for each in CLASS_INPUTS
    }


def _images(count: int) -> FloatArray:
    rng = np.random.default_rng(count)
    return rng.standard_normal((count, *IMAGE.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def backend() -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(tiny_graph(), threads=1)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("classes", [0, 1, 2, 4])
def test_equals_the_reference(backend: OnnxRuntimeBackend, batch: int, classes: int) -> None:
    images, tensors = _images(batch), _tensors(classes)
    outputs = backend.run(images, tensors)
    logits, embedding = reference(images, tensors)
    assert outputs.logits.shape == (batch, classes)
    np.testing.assert_allclose(outputs.logits, logits, atol=1e-5)
    np.testing.assert_allclose(outputs.embedding, embedding, atol=1e-5)


def test_a_class_moves_the_embedding(backend: OnnxRuntimeBackend) -> None:
    """Or parity and forgetting would be tested on a graph that ignores its prompts."""
    with_all, without_one = (backend.run(_images(1), _tensors(count)).embedding for count in (4, 3))
    assert np.abs(with_all - without_one).max() > 1e-2


def test_binds_by_name(backend: OnnxRuntimeBackend) -> None:
    reordered = dict(reversed(_tensors(2).items()))
    one, two = (backend.run(_images(2), tensors) for tensors in (_tensors(2), reordered))
    np.testing.assert_array_equal(one.logits, two.logits)


def test_takes_arrays_that_are_read_only_or_of_any_stride(backend: OnnxRuntimeBackend) -> None:
    images, tensors = _images(2), _tensors(3)
    expected = backend.run(images, tensors).logits
    strided = {name: np.asfortranarray(tensor) for name, tensor in tensors.items()}
    for array in (images, *strided.values()):
        array.flags.writeable = False
    np.testing.assert_array_equal(backend.run(images, strided).logits, expected)


def test_loads_from_a_file_and_from_bytes(tmp_path: Path) -> None:
    path = tmp_path / "backbone.onnx"
    path.write_bytes(tiny_graph())
    expected = OnnxRuntimeBackend(tiny_graph()).run(_images(1), _tensors(2))
    found = OnnxRuntimeBackend(path).run(_images(1), _tensors(2))
    np.testing.assert_array_equal(found.logits, expected.logits)


def test_describes_itself_in_one_line(backend: OnnxRuntimeBackend) -> None:
    assert backend.describe().startswith("ONNX Runtime ")
    assert "CPU" in backend.describe()
    assert "\n" not in backend.describe()


def _renamed_output() -> bytes:
    model = onnx.load_from_string(tiny_graph())
    model.graph.output[1].name = model.graph.node[4].output[0] = "features2"
    model.graph.node[6].input[0] = "features2"
    return model.SerializeToString()


_BAD_GRAPHS: dict[str, bytes] = {
    "empty": b"",
    "text": b"this is no graph",
    "cut short": tiny_graph()[:-40],
    "zeros": bytes(1000),
    "from the future": tiny_graph().replace(b"Transpose", b"Transpoze"),
    "without embedding": _renamed_output(),
}


@pytest.mark.parametrize("graph", _BAD_GRAPHS.values(), ids=_BAD_GRAPHS.keys())
def test_a_bad_graph_is_one_line(
    graph: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "backbone.onnx"
    path.write_bytes(graph)
    for each in (graph, path):
        with pytest.raises(BackendError) as caught:
            OnnxRuntimeBackend(each)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_graph_is_ours(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot load"):
        OnnxRuntimeBackend(tmp_path / "missing.onnx")


def _drop(tensors: dict[str, FloatArray], name: str) -> dict[str, FloatArray]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


_BAD_RUNS: dict[str, tuple[FloatArray, Mapping[str, FloatArray], str]] = {
    "a class input missing": (_images(1), _drop(_tensors(2), "class_bias"), "must remain"),
    "a class input too many": (_images(1), {**_tensors(2), "mask": np.ones(2, "f4")}, "mask"),
    "no class input": (_images(1), {}, "must remain"),
    "an image of another size": (np.zeros((1, 1, 5, 4), "f4"), _tensors(2), "failed"),
    "an image without batch": (np.zeros((1, 4, 4), "f4"), _tensors(2), "failed"),
    "an image of another dtype": (
        np.zeros((1, 1, 4, 4)),  # type: ignore[dict-item]
        _tensors(2),
        "float64",
    ),
    "a class tensor of another dtype": (
        _images(1),
        {**_tensors(2), "class_bias": np.zeros(2)},  # type: ignore[dict-item]
        "class_bias is float64",
    ),
    "a class tensor of another shape": (
        _images(1),
        {**_tensors(2), "class_weight": np.zeros((2, WIDTH + 1), "f4")},
        "failed",
    ),
}


@pytest.mark.parametrize(("image", "tensors", "message"), _BAD_RUNS.values(), ids=_BAD_RUNS.keys())
def test_a_bad_run_is_one_line(
    backend: OnnxRuntimeBackend,
    image: FloatArray,
    tensors: Mapping[str, FloatArray],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        backend.run(image, tensors)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_a_static_graph_of_pixels_takes_uint8_and_a_mask() -> None:
    backend = OnnxRuntimeBackend(variant_graph(STATIC, "uint8"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *IMAGE.shape), dtype=np.uint8)
    mask = np.arange(6) < 4
    outputs = backend.run(pixels, {**_tensors(6), "class_mask": mask})
    expected = reference(pixels.astype(np.float32) / np.float32(127.5) - 1, _tensors(4))
    np.testing.assert_allclose(outputs.logits[:, :4], expected[0], atol=1e-5)
    np.testing.assert_allclose(outputs.embedding, expected[1], atol=1e-5)
    with pytest.raises(BackendError, match="image is float32: the graph takes uint8"):
        backend.run(pixels.astype(np.float32), {**_tensors(6), "class_mask": mask})
    with pytest.raises(BackendError, match="class_mask is float32: the graph takes bool"):
        backend.run(pixels, {**_tensors(6), "class_mask": mask.astype(np.float32)})


def test_a_graph_with_an_input_that_nothing_feeds() -> None:
    model = onnx.load_from_string(tiny_graph())
    extra = onnx.helper.make_tensor_value_info("step", onnx.TensorProto.INT64, [1])
    model.graph.input.append(extra)
    with pytest.raises(BackendError, match=r"input step of the graph is tensor\(int64\)"):
        OnnxRuntimeBackend(model.SerializeToString())


def test_backends_by_name() -> None:
    assert load_backend("onnxruntime") is OnnxRuntimeBackend
    with pytest.raises(BackendError, match="did you mean 'onnxruntime'"):
        load_backend("onnx-runtime")
    with pytest.raises(BackendError, match="there is onnxruntime"):
        load_backend("")


def test_says_how_to_install_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'pfm-edge-runtime\[onnx"):
        OnnxRuntimeBackend(tiny_graph())
