"""Verifying a package with several graphs: each against golden vectors, and against torch."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from pfm_edge_exporters import ParityError, TorchSource, check_golden, verify_package
from pfm_edge_exporters import verification as module
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.errors import BackendError, BackendUnavailableError
from pfm_edge_runtime.manifest import ImageInput
from pfm_edge_runtime.package import ModelPackage
from tests.support import tiny_package as tiny
from tests.support.tiny_variants import (
    BYTES,
    DYNAMIC,
    FIXED,
    HALF,
    STATIC,
    variant_graph,
    write_variants,
)

_ALL = (DYNAMIC, STATIC, FIXED, HALF, BYTES)


class Tiny(torch.nn.Module):
    """What the tiny graph computes, in torch."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.register_buffer("projection", torch.from_numpy(tiny._projection()) * scale)

    def forward(self, image, values, weight, bias):
        shift = values.sum(dim=(0, 1)) * tiny._PROMPT_SCALE
        embedding = image.flatten(1) @ self.projection + shift
        return embedding @ weight.T + bias, embedding


def synthesize(count, draw):
    shapes = {each.name: each.graph_shape(count) for each in tiny.CLASS_INPUTS}
    return {name: draw.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}


def source(module=None):
    return TorchSource(
        module=module or Tiny().eval(),
        model_id=tiny.MODEL_ID,
        attention="prefix",
        image=tiny.IMAGE,
        class_inputs=tiny.CLASS_INPUTS,
        preprocessing=tiny.PREPROCESSING,
        synthesize=synthesize,
    )


@pytest.fixture(params=["float32", "uint8"])
def package(tmp_path, request):
    return write_variants(tmp_path / "model", _ALL, dtype=request.param).directory


def points(report):
    return {
        graph.variant.file: {(row.batch, row.classes) for row in graph.rows}
        for graph in report.graphs
    }


def grid(*classes):
    return {(batch, count) for batch in (1, 2, 5) for count in classes}


def test_every_graph_is_compared_with_the_golden_vectors(package):
    seen = []
    report = check_golden(package, progress=seen.append)
    assert seen == [each.file for each in _ALL]
    assert report.worst < 1e-5
    assert points(report) == {
        DYNAMIC.file: grid(1, 2, 7),
        STATIC.file: grid(1, 2),
        FIXED.file: grid(1, 2, 7),
        HALF.file: grid(1, 2, 7),
        BYTES.file: grid(1, 2),
    }
    assert report.graphs[3].summary().startswith("backbone.fp16.onnx: cosine 1.00000 at 9 points")


def test_every_graph_is_compared_with_the_model_up_to_its_capacity(package):
    report = verify_package(ModelPackage.open(package), source(), max_classes=4)
    assert report.worst < 1e-5
    assert points(report) == {
        DYNAMIC.file: grid(1, 2, 4, 7),
        STATIC.file: grid(1, 2, 4, 6),
        FIXED.file: grid(1, 2, 4, 7),
        HALF.file: grid(1, 2, 4, 7),
        BYTES.file: grid(1, 2, 4, 5),
    }
    assert all(graph.sensitivity > 1e-2 for graph in report.graphs)
    assert report.graphs[4].cosine < 1
    assert [each["file"] for each in report.as_dict()["graphs"]] == [each.file for each in _ALL]


def test_the_graph_that_differs_is_named(package):
    opened = ModelPackage.open(package)
    with pytest.raises(ParityError, match=r"model/backbone\.onnx: the graph does not agree with"):
        verify_package(opened, source(Tiny(1.01).eval()), max_classes=4)
    broken = opened.files.read_graph(DYNAMIC).replace(b"ReduceSum", b"ReduceMax")
    with (
        mock.patch.object(type(opened.files), "read_graph", reads({STATIC.file: broken}, opened)),
        pytest.raises(ParityError, match=r"backbone\.static-6\.onnx: the graph does not run"),
    ):
        verify_package(opened, source(), max_classes=4)


def reads(replaced, opened):
    real = {each.file: opened.files.read_graph(each) for each in _ALL} | replaced
    return lambda _self, variant: real[variant.file]


def test_a_mask_that_is_ignored_is_found(tmp_path):
    """A static graph whose absent classes still count: zeros add nothing, a constant does."""
    import onnx

    model = onnx.load_from_string(variant_graph(STATIC))
    for node in model.graph.node:
        if node.output[0] == "present_values":  # absent rows become ones, not zeros
            node.input[2] = "one"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), "one"))
    graphs = {STATIC.file: model.SerializeToString()}
    package = write_variants(tmp_path / "model", (DYNAMIC, STATIC), graphs=graphs).directory
    with pytest.raises(ParityError, match=r"static-6\.onnx: the graph does not agree"):
        check_golden(package)


# --- backends


def test_a_graph_that_no_backend_loads_is_an_error(tmp_path: Path):
    graphs = {HALF.file: b"corrupt"}
    package = write_variants(tmp_path / "model", (DYNAMIC, HALF), graphs=graphs).directory
    with pytest.raises(BackendError, match=r"backbone\.fp16\.onnx: ONNX Runtime cannot load"):
        check_golden(package)


def test_a_graph_that_one_of_two_backends_loads_is_verified_there(package):
    def load(name):
        return load_backend("onnxruntime") if name == "one" else refuse

    def refuse(graph, /, *, threads=None):
        raise BackendError("operator unknown")

    with (
        mock.patch.object(module, "present_backends", return_value=("one", "two")),
        mock.patch.object(module, "load_backend", load),
    ):
        report = check_golden(package, batches=(1,))
    assert len(report.graphs) == len(report.refused) == len(_ALL)
    assert report.refused[0].endswith("model/backbone.onnx: operator unknown")


def test_nothing_to_run_a_graph_with(package):
    with (
        mock.patch.object(module, "present_backends", return_value=()),
        pytest.raises(BackendUnavailableError, match="pip install"),
    ):
        check_golden(package)


def test_a_source_of_another_size_is_another_model(package):
    other = replace(source(), image=ImageInput("image", (1, 8, 8)))
    with pytest.raises(Exception, match="other inputs than the model"):
        verify_package(ModelPackage.open(package), other, max_classes=4)
