"""The bundle as an ONNX Runtime adapter: the same logits, through onnxruntime.LoraAdapter."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pfm_edge_exporters._class_inputs import optional_classes
from pfm_edge_exporters.errors import ExportError
from pfm_edge_exporters.ort_adapter import model_version, read_adapter, write_adapter
from pfm_edge_exporters.targets import TargetReport, export_target, find_target, parse_options
from pfm_edge_runtime.errors import PackageError
from tests.support.tiny_package import TinyPackage, tiny_graph, write_tiny_package
from tests.support.tiny_torch import joint_graph, joint_source, prefix_graph, prefix_source


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model", sequence=5)


def export(tiny: TinyPackage, *given: str, **how: object) -> TargetReport:
    target = find_target("ort-adapter")
    return export_target(
        tiny.directory, target, parse_options(target.name, target.options, given), **how
    )


def run(graph: bytes | Path, images, path: Path):
    """Run a graph with an adapter for everything but the image."""
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(path))
    options = onnxruntime.RunOptions()
    options.add_active_adapter(adapter)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it remarks that inputs with a default are no constants
    source = graph if isinstance(graph, bytes) else str(graph)
    session = onnxruntime.InferenceSession(source, quiet, providers=["CPUExecutionProvider"])
    return session.run(["logits", "embedding"], {"image": images}, options)


def fed(graph: bytes, images, tensors):
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["logits", "embedding"], {"image": images, **tensors})


def test_the_adapter_gives_the_bundles_logits(tiny):
    report = export(tiny)
    images = np.random.default_rng(3).standard_normal((3, 1, 4, 4), dtype=np.float32)
    tensors = {
        each.name: np.ascontiguousarray(
            np.moveaxis(tiny.bundle.tensors[each.name], 0, each.class_axis)
        )
        for each in tiny.manifest.class_inputs
    }
    found = run(report.path / "backbone.onnx", images, report.path / "classes.onnx_adapter")
    for one, other in zip(found, fed(tiny_graph(), images, tensors), strict=True):
        assert np.array_equal(one, other)
    assert (report.path / "labels.txt").read_text().splitlines() == list(tiny.bundle.labels)


@pytest.mark.parametrize(
    ("graph", "source"), [(prefix_graph, prefix_source), (joint_graph, joint_source)]
)
def test_a_transformer_takes_its_classes_from_an_adapter(graph, source, tmp_path):
    tensors = source().synthesize(7, np.random.default_rng(1))
    images = np.random.default_rng(2).standard_normal((2, 1, 8, 8), dtype=np.float32)
    path = tmp_path / "x.onnx_adapter"
    write_adapter(path, tensors, adapter_version=1, model_version=2)
    optional = optional_classes(graph(), source().class_inputs)
    for one, other in zip(run(optional, images, path), fed(graph(), images, tensors), strict=True):
        assert np.array_equal(one, other)


def test_it_says_which_bundle_and_which_model(tiny):
    report = export(tiny)
    tensors, adapter, model = read_adapter(report.path / "classes.onnx_adapter")
    assert set(tensors) == {each.name for each in tiny.manifest.class_inputs}
    assert (adapter, model) == (5, model_version(tiny.manifest.model_id))
    assert 0 < model < 2**31


def test_two_exports_are_the_same_bytes(tiny):
    report = export(tiny)
    before = {path.name: path.read_bytes() for path in report.path.iterdir()}
    assert before.keys() == {"backbone.onnx", "classes.onnx_adapter", "labels.txt", "target.json"}
    export(tiny, overwrite=True)
    assert {path.name: path.read_bytes() for path in report.path.iterdir()} == before


def test_the_graph_may_be_left_out(tiny):
    assert "backbone.onnx" not in export(tiny, "graph=no").sizes


def test_what_goes_wrong_is_one_line(tiny, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="ONNX Runtime refuses it") as caught:
        write_adapter(tmp_path / "no" / "x", {}, adapter_version=1, model_version=1)
    assert "\n" not in str(caught.value)
    for data in (b"", b"no adapter", b"\0" * 100):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(PackageError, match="ONNX Runtime refuses it"):
            read_adapter(tmp_path / "bad")
    monkeypatch.delattr(onnxruntime, "AdapterFormat")
    with pytest.raises(ExportError, match=r"knows no adapters: pip install 'onnxruntime>=1\.20'"):
        export(tiny)
    assert not tiny.directory.with_name("model-ort-adapter").exists()
