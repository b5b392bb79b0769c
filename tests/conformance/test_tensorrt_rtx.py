"""Engines by the real builder of TensorRT for RTX, with no GPU; what fails leaves nothing."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pfm_edge_exporters._half import to_half
from pfm_edge_exporters._int8 import to_int8
from pfm_edge_exporters._opset23 import to_opset23
from pfm_edge_exporters._pixels import take_pixels
from pfm_edge_exporters._static import to_static
from pfm_edge_exporters.errors import ExportError
from pfm_edge_exporters.targets import TargetRecord, export_target, find_target, parse_options
from pfm_edge_exporters.tensorrt_from_onnx import (
    Profile,
    Range,
    TensorRtFromOnnx,
    load_tensorrt,
)
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import ConfigError, StorageError
from pfm_edge_runtime.manifest import Variant
from tests.support.tiny_package import TinyPackage, build_bundle, tiny_graph, write_tiny_package
from tests.support.tiny_torch import joint_graph, prefix_graph, prefix_source
from tests.support.tiny_variants import write_variants

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu12 is not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def builder(**settings: object) -> TensorRtFromOnnx:
    return TensorRtFromOnnx(
        load_tensorrt("tensorrt_rtx"), **{"compute_capabilities": ("8.6",), **settings}
    )


def export(tiny: TinyPackage, *given: str, **how: object):
    target = find_target("tensorrt-rtx")
    options = parse_options(target.name, target.options, given)
    return export_target(tiny.directory, target, options, **how)


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("graph", [prefix_graph, joint_graph])
def test_transformers_are_parsed_and_built_over_both_axes(graph):
    told: list[float] = []
    engine = builder(
        profiles=(
            Profile(Range(1, 2, 8), Range(1, 16, 64)),
            Profile(Range(1, 2, 8), Range(65, 80, 128)),
        )
    ).export(graph(), progress=lambda done, _: told.append(done))
    assert len(engine.plan) > 100_000
    assert engine.layers > 100
    assert told == sorted(told)
    assert told[-1] > 0.5


def changed(graph: bytes, change) -> bytes:
    model = onnx.load_from_string(graph)
    change(model)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "change",
    [
        to_half,
        lambda model: to_static(model, Variant("x.onnx", "fp32", 16, 2), prefix_source()),
        lambda model: take_pixels(model, prefix_source()),
        to_opset23,
    ],
    ids=["half", "static", "pixels", "opset23"],
)
def test_every_kind_of_graph_is_built_as_it_is_typed(change):
    assert builder().export(changed(prefix_graph(), change)).layers > 100


def test_an_int8_graph_is_for_cpus(tmp_path):
    variants = (Variant("backbone.onnx", "fp32"), Variant("backbone.int8.onnx", "int8"))
    tiny = write_variants(tmp_path / "model", variants)
    graph = changed(prefix_graph(), to_int8)
    (tiny.directory / "backbone.int8.onnx").write_bytes(graph)
    manifest = json.loads((tiny.directory / "manifest.json").read_bytes())
    manifest["files"]["backbone.int8.onnx"] = digest_of(graph)
    data = json.dumps(manifest, indent=2).encode() + b"\n"
    (tiny.directory / "manifest.json").write_bytes(data)
    (tiny.directory / "bundle.safetensors").write_bytes(build_bundle(data).to_bytes())
    with pytest.raises(ExportError, match=r"DynamicQuantizeLinear.*is for CPUs: name another"):
        export(tiny, "variant=backbone.int8.onnx")


def test_an_export_records_what_it_was_made_of(tiny):
    report = export(tiny, "compute-capabilities=8.6,8.9", "classes=1:2:8")
    assert report.path == tiny.directory / "tensorrt-rtx" / "backbone"
    record = TargetRecord.read(report.path)
    assert record.inputs["backbone.onnx"] == tiny.manifest.files["backbone.onnx"]
    assert record.options["compute_capabilities"] == "8.6,8.9"
    assert "tensorrt_rtx" in record.made_with
    assert record.classes == ()
    assert record.files.keys() == {"backbone.plan"}
    with pytest.raises(StorageError, match="add --overwrite"):
        export(tiny)
    assert export(tiny, overwrite=True).sizes.keys() == report.sizes.keys()


def resized() -> bytes:
    """A graph that asks for what the parser refuses: an antialiased Resize."""
    graph = helper.make_graph(
        [helper.make_node("Resize", ["image", "", "", "sizes"], ["out"], "shrink", antialias=1)],
        "resized",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [numpy_helper.from_array(np.array([1, 1, 4, 4], np.int64), "sizes")],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def renamed() -> bytes:
    model = onnx.load_from_string(tiny_graph())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "images"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("settings", "graph", "message"),
    [
        ({}, resized, r"cannot parse the graph: .*Resize.*[Aa]ntialias"),
        ({}, lambda: b"no graph", "cannot parse the graph: .*Failed to parse the ONNX model"),
        ({}, renamed, "symbolic axis 'images': only batch and classes may be"),
        ({"compute_capabilities": ("8.7",)}, tiny_graph, "it builds for 7.5, 8.0, 8.6"),
        ({"workspace_bytes": 1}, prefix_graph, "raise the workspace limit"),
        ({"version_compatible": True}, tiny_graph, "cannot build version-compatible engines"),
        ({"profiles": ()}, tiny_graph, "one optimisation profile"),
    ],
)
def test_what_cannot_be_built_is_one_line(settings, graph, message):
    with pytest.raises(ExportError, match=message) as caught:
        builder(**settings).export(graph())
    assert "\n" not in str(caught.value)


def test_a_build_that_fails_leaves_nothing(tiny):
    before = below(tiny.directory.parent)
    for given, error in (("compute-capabilities=1.0", ExportError), ("variant=x", ConfigError)):
        with pytest.raises(error):
            export(tiny, given)
        assert below(tiny.directory.parent) == before


KILLED = """
import os, sys
from pathlib import Path
from pfm_edge_exporters.targets import export_target, find_target
def strike(done, phase):
    if done > 0.1:
        os.kill(os.getpid(), int(sys.argv[2]))
target = find_target("tensorrt-rtx")
export_target(Path(sys.argv[1]), target, target.options(), overwrite=True, progress=strike)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_build_leaves_the_old_engine_alone(tiny, number):
    kept = export(tiny).path / "backbone.plan"
    before, plan = below(tiny.directory.parent), kept.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny), str(int(number))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -number
    assert number == signal.SIGKILL or done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert below(tiny.directory.parent) == before
    assert kept.read_bytes() == plan
