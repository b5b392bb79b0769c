"""The engine builder on TensorRT's own API, which a fake records: this machine has no such GPU."""

import sys
from pathlib import Path

import pytest

from pfm_edge_exporters._build_progress import BuildMonitor
from pfm_edge_exporters.errors import ExportError
from pfm_edge_exporters.targets import export_target, find_target, parse_options
from pfm_edge_exporters.tensorrt_from_onnx import (
    Profile,
    Range,
    TensorRtFromOnnx,
    load_tensorrt,
)
from tests.support.fake_tensorrt import FakeTensorRt
from tests.support.tiny_package import TinyPackage, tiny_graph, write_tiny_package


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    def put(**options: object) -> FakeTensorRt:
        fake = FakeTensorRt(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
        return fake

    return put


def export(tiny: TinyPackage, *given: str):
    target = find_target("tensorrt")
    return export_target(tiny.directory, target, parse_options(target.name, target.options, given))


def left_in(tiny: TinyPackage) -> set[str]:
    return {each.name for each in tiny.directory.parent.rglob("*") if "tensorrt" in str(each)}


def test_every_setting_reaches_the_library(tiny, install, tmp_path):
    fake, cache = install(), tmp_path / "cache"
    given = [
        "batch=1:2:4",
        "classes=1:2:3,4:5:6",
        "workspace-mib=1",
        "level=4",
        "hardware-compatibility=ampere_plus",
        "version-compatible=yes",
        f"timing-cache={cache}",
    ]
    report = export(tiny, *given)
    assert (report.path / "backbone.plan").read_bytes() == b"plan"
    assert cache.read_bytes() == b"+measured"
    (first, second) = (call[1] for call in fake.calls if call[0] == "profile")
    assert first["image"] == ((1, 1, 4, 4), (2, 1, 4, 4), (4, 1, 4, 4))
    assert first["prompt_values"] == ((2, 1, 4), (2, 2, 4), (2, 3, 4))
    assert second["class_bias"] == ((4,), (5,), (6,))
    assert {
        ("create_network", 1 << 1),
        ("set_memory_pool_limit", "WORKSPACE", 2**20),
        ("set_flag", "VERSION_COMPATIBLE"),
        ("level", 4),
        ("hardware", "AMPERE_PLUS"),
        ("create_timing_cache", b""),
    } <= {call for call in fake.calls if call[0] != "profile"}


def test_what_a_release_lacks_is_said(install):
    module = install(version="10.13.3").module
    for settings, message in (
        ({"compute_capabilities": ("8.7",)}, "builds for the GPU in the machine"),
        ({"hardware_compatibility": "ampere"}, "did you mean 'AMPERE_PLUS'"),
    ):
        with pytest.raises(ExportError, match=message):
            TensorRtFromOnnx(module, **settings).export(tiny_graph())


@pytest.mark.parametrize("version", ["10.2.9", "12.0.0", "8.6.1", "", "new"])
def test_a_release_that_cannot_be_used_is_refused(tiny, install, version):
    install(version=version)
    with pytest.raises(ExportError, match=r"not 10\.3 or newer, below 12: pip install"):
        export(tiny)
    assert not left_in(tiny)


def test_a_missing_library_is_one_line_and_leaves_nothing(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match="not installed: pip install 'pfm-edge-exporters") as it:
        export(tiny)
    assert "\n" not in str(it.value)
    assert not left_in(tiny)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"no_gpu": True}, "CUDA initialization failure"),
        (
            {"plan": None, "complaint": "out of\n  tactics"},
            "cannot build the graph: out of tactics",
        ),
        ({"plan": None, "complaint": "cudaError 35"}, "this machine has no GPU that it can use"),
        ({"plan": None}, "it gives no reason"),
    ],
)
def test_what_the_library_raises_or_logs_is_one_line(tiny, install, fault, message):
    install(**fault)
    with pytest.raises(ExportError, match=message) as caught:
        export(tiny)
    assert "\n" not in str(caught.value)
    assert not left_in(tiny)


def test_another_gpus_timing_cache_is_refused_and_kept(tiny, install, tmp_path):
    install()
    cache = tmp_path / "cache"
    cache.write_bytes(b"foreign")
    with pytest.raises(ExportError, match="of another version or GPU"):
        export(tiny, f"timing-cache={cache}")
    assert cache.read_bytes() == b"foreign"
    with pytest.raises(ExportError, match="cannot be read"):
        export(tiny, f"timing-cache={tmp_path}")


def test_an_interruption_in_a_callback_stops_the_build_and_comes_out_of_it(install):
    def interrupt(done: float, phase: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TensorRtFromOnnx(install().module).export(tiny_graph(), progress=interrupt)


def test_nested_phases_add_up_to_a_share_that_never_falls():
    told = []
    monitor = BuildMonitor(lambda done, phase: told.append((done, phase)))
    monitor.phase_start("build", None, 2)
    monitor.phase_start("optimize", "build", 4)
    monitor.step_complete("optimize", 1)
    monitor.phase_start("time", "optimize", 2)
    monitor.step_complete("time", 0)
    monitor.phase_finish("time")
    monitor.phase_finish("optimize")
    monitor.step_complete("build", 0)
    monitor.step_complete("nobody began this", 3)
    monitor.phase_start("again", "build", 10)
    monitor.step_complete("build", 1)
    shares = [done for done, _ in told]
    assert shares == sorted(shares)
    assert (0.25, "optimize") in told
    assert (0.3125, "time") in told
    assert told[-1] == (1.0, "build")


def test_ranges_and_axes_that_cannot_be_are_refused():
    with pytest.raises(ExportError, match="must ascend"):
        Range(2, 1, 3)
    with pytest.raises(ExportError, match="symbolic axis 'height'"):
        Profile().sizes(["batch", 3, "height"])


def test_a_library_of_another_name_is_a_mistake_in_the_program():
    with pytest.raises(KeyError):
        load_tensorrt("tensorflow")
