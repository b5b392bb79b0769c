"""Who executed what: read from ONNX Runtime's own profile, and from profiles made up."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import pytest

from pfm_edge_runtime.backends._onnxruntime_profile import operators_by_provider
from pfm_edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from pfm_edge_runtime.errors import BackendError
from tests.support.tiny_package import CLASS_INPUTS, IMAGE, tiny_graph

_TENSORS = {each.name: np.zeros(each.graph_shape(2), np.float32) for each in CLASS_INPUTS}
_IMAGES = np.zeros((1, *IMAGE.shape), np.float32)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_run_says_who_executed_its_nodes_and_leaves_no_file(temporary: Path) -> None:
    with OnnxRuntimeBackend.tracing(tiny_graph(), threads=1) as backend:
        for _ in range(3):  # each node counts once
            outputs = backend.run(_IMAGES, _TENSORS)
        with pytest.raises(BackendError, match="nothing was traced"):
            _ = backend.execution
    assert backend.execution.providers == ("CPUExecutionProvider",)
    (operators,) = backend.execution.operators.values()
    assert operators["ReduceSum"] == operators["Flatten"] == 1
    assert list(operators.values()) == sorted(operators.values(), reverse=True)
    expected = OnnxRuntimeBackend(tiny_graph()).run(_IMAGES, _TENSORS)
    np.testing.assert_array_equal(outputs.logits, expected.logits)
    assert list(temporary.iterdir()) == []


def test_where_nothing_ran_there_is_nothing_to_tell(temporary: Path) -> None:
    with OnnxRuntimeBackend.tracing(tiny_graph()) as backend:
        pass
    for each in (backend, OnnxRuntimeBackend(tiny_graph())):
        with pytest.raises(BackendError, match="nothing was traced"):
            _ = each.execution


def test_a_failure_in_the_block_is_the_one_that_is_told(
    temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = _IMAGES[:, :, :3]
    with (
        pytest.raises(BackendError, match="the graph failed"),
        OnnxRuntimeBackend.tracing(tiny_graph()) as backend,
    ):
        backend.run(bad, _TENSORS)
    with pytest.raises(BackendError, match="cannot load"), OnnxRuntimeBackend.tracing(b"no"):
        pass
    assert list(temporary.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_no_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with (
        pytest.raises(BackendError, match="no temporary directory"),
        OnnxRuntimeBackend.tracing(tiny_graph()),
    ):
        pass


def _event(name: str, provider: str, operator: str) -> dict[str, Any]:
    return {"cat": "Node", "name": name, "args": {"provider": provider, "op_name": operator}}


def test_two_providers_the_busier_first(tmp_path: Path) -> None:
    events = [
        {"cat": "Session", "name": "session_initialization", "args": {}},
        _event("copy_kernel_time", "CPUExecutionProvider", "Cast"),
        _event("a_kernel_time", "CUDAExecutionProvider", "Gemm"),
        _event("a_fence_before", "CUDAExecutionProvider", "Gemm"),
        _event("b_kernel_time", "CUDAExecutionProvider", "Add"),
        _event("c_kernel_time", "CUDAExecutionProvider", "Gemm"),
        _event("a_kernel_time", "CUDAExecutionProvider", "Gemm"),
    ]
    (tmp_path / "profile").write_text(json.dumps(events))
    found = operators_by_provider(tmp_path / "profile")
    assert list(found) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert found["CUDAExecutionProvider"] == {"Gemm": 2, "Add": 1}
    assert found["CPUExecutionProvider"] == {"Cast": 1}


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}x", "3", '["event"]', '[{"cat": "Node"}]', '[{"cat": "Node", "name": 1}]', "\xff"],
)
def test_a_profile_of_another_form_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BackendError, match="profile cannot be read") as caught:
        operators_by_provider(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="profile cannot be read"):
        operators_by_provider(tmp_path / "missing")


def test_whatever_onnx_runtime_raises_when_it_writes_its_profile(temporary: Path) -> None:
    session = onnxruntime.InferenceSession
    with (
        mock.patch.object(session, "end_profiling", side_effect=RuntimeError("no\nroom")),
        pytest.raises(BackendError, match="no room"),
        OnnxRuntimeBackend.tracing(tiny_graph()) as backend,
    ):
        backend.run(_IMAGES, _TENSORS)
