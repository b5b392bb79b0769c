"""The doctor's look at graphs: every one runs, who executed it, and what is wrong with it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pfm_edge_runtime import graph_checks as module
from pfm_edge_runtime.backends import Execution, Outputs
from pfm_edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from pfm_edge_runtime.errors import BackendError
from pfm_edge_runtime.graph_checks import examine_graphs, graph_count
from pfm_edge_runtime.manifest import PixelType
from tests.support.tiny_package import tiny_graph, write_tiny_package
from tests.support.tiny_variants import BYTES, DYNAMIC, FIXED, HALF, STATIC, write_variants

_ALL = (DYNAMIC, STATIC, FIXED, HALF, BYTES)
_CORRUPT = b"corrupt, but listed with its digest"


def _other_weights(scale: float) -> bytes:
    model = onnx.load_from_string(tiny_graph())
    for tensor in model.graph.initializer:
        if tensor.name == "projection":
            array = numpy_helper.to_array(tensor) * np.float32(scale)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString()


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_every_graph_runs_and_says_who_executed_it(tmp_path: Path, dtype: PixelType) -> None:
    tiny = write_variants(tmp_path / "model", _ALL, dtype=dtype)
    told: list[int] = []
    checks = list(examine_graphs(tiny.directory, report=told.append))
    assert {each.status for each in checks} == {"ok"}
    assert len(told) == graph_count(tiny.directory) == len(_ALL)
    for variant, check in zip(_ALL, checks, strict=True):
        assert check.finding.startswith(f"{variant.file} ({variant.precision}) in ONNX Runtime")
        assert "CPUExecutionProvider executed" in check.finding
        assert "Gemm 2" in check.finding
        assert ("cosine 1.00000" in check.finding) == (variant.precision != "fp32")


def test_a_graph_that_computes_something_else(tmp_path: Path) -> None:
    graphs = {DYNAMIC.file: _other_weights(1.001), HALF.file: _other_weights(-1)}
    tiny = write_variants(tmp_path / "model", (DYNAMIC, STATIC, HALF), graphs=graphs)
    one, two, three = examine_graphs(tiny.directory)
    assert (one.status, two.status, three.status) == ("problem", "ok", "problem")
    assert "does not compute its golden vectors: for " in one.finding
    assert "values differ by" in one.finding
    assert one.finding.endswith("(tolerance 1e-04)")
    assert "the cosine is -" in three.finding
    assert three.finding.endswith("(tolerance 0.9999)")
    assert all(each.fix and "\n" not in each.finding for each in (one, three))


def test_a_graph_that_cannot_be_loaded_is_a_problem_only_where_it_is_the_last(
    tmp_path: Path,
) -> None:
    tiny = write_variants(tmp_path / "one", (DYNAMIC, HALF), graphs={HALF.file: _CORRUPT})
    fine, refused = examine_graphs(tiny.directory)
    assert (fine.status, refused.status) == ("ok", "note")
    assert refused.finding.startswith("backbone.fp16.onnx: ONNX Runtime cannot load the graph")
    only = write_tiny_package(tmp_path / "two", graph=_CORRUPT)
    (check,) = examine_graphs(only.directory)
    assert check.status == "problem"


def test_a_graph_that_fails_when_it_runs(tmp_path: Path) -> None:
    tiny = write_tiny_package(tmp_path / "model")
    with mock.patch.object(OnnxRuntimeBackend, "run", side_effect=BackendError("out of memory")):
        (check,) = examine_graphs(tiny.directory)
    assert check.status == "problem"
    assert check.finding == "backbone.onnx: for 1 image and 1 class: out of memory"


def test_without_the_library_nothing_is_run_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (check,) = examine_graphs(write_variants(tmp_path / "model", _ALL).directory)
    assert check.status == "note"
    assert "pip install" in check.finding


def test_what_is_no_package(tmp_path: Path) -> None:
    (check,) = examine_graphs(tmp_path / "nowhere")
    assert check.status == "problem"
    assert graph_count(tmp_path / "nowhere") == 0
    tiny = write_tiny_package(tmp_path / "model")
    (tiny.directory / "backbone.onnx").write_bytes(b"altered")
    (check,) = examine_graphs(tiny.directory)
    assert check.status == "problem"
    assert "not the file that" in check.finding
    (check,) = examine_graphs(tiny.directory, backend="onnx-runtime")
    assert "did you mean" in check.finding


@dataclass
class _Elsewhere:
    """The real backend, which claims that another provider executed some of it."""

    real: OnnxRuntimeBackend
    execution: Execution

    def run(self, image: np.ndarray, class_tensors: Mapping[str, np.ndarray]) -> Outputs:
        return self.real.run(image, class_tensors)

    def describe(self) -> str:
        return "ONNX Runtime 9"

    @classmethod
    @contextmanager
    def tracing(cls, graph: bytes, *, threads: int | None = None) -> Iterator["_Elsewhere"]:
        yield cls(OnnxRuntimeBackend(graph, threads=threads), cls.told)

    told = Execution((), {})


def _finding(tmp_path: Path, execution: Execution) -> tuple[str, str]:
    tiny = write_tiny_package(tmp_path / "model")
    with (
        mock.patch.object(_Elsewhere, "told", execution),
        mock.patch.object(module, "load_backend", return_value=_Elsewhere),
    ):
        (check,) = examine_graphs(tiny.directory)
    return check.status, check.finding


def test_a_provider_that_is_listed_and_executes_nothing_is_told(tmp_path: Path) -> None:
    status, finding = _finding(
        tmp_path,
        Execution(
            ("CUDAExecutionProvider", "CPUExecutionProvider"),
            {"CPUExecutionProvider": {"Gemm": 2, "Add": 1}},
        ),
    )
    assert status == "note"
    assert finding.endswith(
        "CPUExecutionProvider executed 3 nodes (Gemm 2, Add 1); "
        "CUDAExecutionProvider executed nothing"
    )


def test_two_providers_share_a_graph(tmp_path: Path) -> None:
    many = {f"Operator{index}": 9 - index for index in range(8)}
    status, finding = _finding(
        tmp_path,
        Execution(
            ("CUDAExecutionProvider", "CPUExecutionProvider"),
            {"CUDAExecutionProvider": many, "CPUExecutionProvider": {"Cast": 1}},
        ),
    )
    assert status == "ok"
    assert "CUDAExecutionProvider executed 44 nodes (Operator0 9, " in finding
    assert ", Operator5 4, …), CPUExecutionProvider executed 1 node (Cast 1)" in finding
