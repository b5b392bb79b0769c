"""Packages of several graphs: each judged before it stays, and nothing left of a refused export."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pfm_edge_exporters import (
    Calibration,
    ExportError,
    ExportOptions,
    HeldOut,
    Machine,
    OnnxFromTorch,
    ParityError,
    check_golden,
    export_package,
    torch_reference,
    verify_package,
)
from pfm_edge_exporters._calibration import calibrate
from pfm_edge_exporters._judging import Speed, predictions
from pfm_edge_runtime import Classifier
from pfm_edge_runtime.package import ModelPackage
from tests.support.tiny_export import contents, make_bundle, old_package
from tests.support.tiny_torch import joint_source, prefix_graph, prefix_source

CLASSES = 3
IMAGES = 60
VNNI = Machine(cpu_flags=lambda: frozenset(["avx512_vnni"]))
EVERYTHING = {"precisions": ("fp16", "int8"), "capacity": 5, "batch": 2, "opset23": True}


def drawn(source, seed=1):
    draw = np.random.default_rng(seed)
    tensors = source.synthesize(CLASSES, draw)
    if source.image.dtype == "uint8":
        return draw.integers(0, 256, (IMAGES, *source.image.shape), dtype=np.uint8), tensors
    return draw.standard_normal((IMAGES, *source.image.shape), dtype=np.float32), tensors


def held_out(source) -> HeldOut:
    """Images whose labels are what the model says of them."""
    images, tensors = drawn(source)
    floats = images if images.dtype == np.float32 else (images / np.float32(255) - 0.5) / 0.5
    labels = torch_reference(source)(floats.astype(np.float32), tensors).logits.argmax(axis=1)
    return HeldOut(labels, lambda: iter([images[:32], images[32:]]), tensors)


def calibration(source) -> Calibration:
    images, _ = drawn(source, seed=2)
    return Calibration("noise", lambda: iter([images]))


def export(out, source, progress=lambda _: None, **options):
    options = ExportOptions(**{"max_classes": CLASSES, "overwrite": True, **options})
    return export_package(source, out, options, bundle=make_bundle, progress=progress)


@pytest.fixture(scope="module", params=["prefix", "joint, pixels"])
def exported(request, tmp_path_factory):
    """A package with a graph of every kind, and what its export reported."""
    source = prefix_source() if request.param == "prefix" else joint_source()
    if "pixels" in request.param:
        source = replace(source, image=replace(source.image, dtype="uint8"))
    return source, export_all(source, tmp_path_factory.mktemp("exported") / "model")


def export_all(source, out):
    return export(
        out,
        source,
        **EVERYTHING,
        force=True,
        held_out=held_out(source),
        calibration=calibration(source),
        max_accuracy_drop=5,
    )


def test_every_graph_is_there_and_says_what_it_is(exported):
    _, report = exported
    files = [each.variant.file for each in report.graphs]
    assert files == [
        "backbone.onnx",
        "backbone.fp16.onnx",
        "backbone.int8.onnx",
        "backbone.opset23.onnx",
        "backbone.static-5.onnx",
        "backbone.fp16.static-5.onnx",
        "backbone.int8.static-5.onnx",
    ]
    manifest = ModelPackage.open(report.path).manifest
    assert [each.file for each in manifest.variants] == files
    assert manifest.created_with["int8"] == "static, noise"
    assert [each.name for each in report.path.parent.iterdir()] == ["model"]


def test_calibrated_graphs_are_the_same_from_another_folder(exported, tmp_path):
    source, report = exported
    export_all(source, tmp_path / "other" / "model")
    first, second = contents(report.path), contents(tmp_path / "other" / "model")
    assert {name for name in first if first[name] != second[name]} == {"bundle.safetensors"}


def test_every_graph_is_verified_without_and_with_torch(exported):
    source, report = exported
    assert len(check_golden(report.path).graphs) == len(report.graphs)
    opened = ModelPackage.open(report.path)
    verified = verify_package(opened, source, max_classes=CLASSES)
    assert verified.worst < 1e-4


def test_one_bundle_serves_every_graph(exported):
    _, report = exported
    image = np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8)
    said = {
        each.variant.file: Classifier.open(report.path, variant=each.variant.file).predict(image)
        for each in report.graphs
    }
    assert len({prediction.label for prediction in said.values()}) == 1


def test_the_report_states_accuracy_and_speed(exported):
    _, report = exported
    judged = {each.variant.file: each for each in report.graphs}
    for file in ("backbone.fp16.onnx", "backbone.int8.onnx", "backbone.int8.static-5.onnx"):
        assert judged[file].accuracy.images == IMAGES
        assert judged[file].accuracy.before == 1
        assert judged[file].accuracy.same > 0.9
    assert judged["backbone.fp16.onnx"].accuracy.same == 1
    assert judged["backbone.int8.onnx"].speed.ratio > 0
    assert judged["backbone.opset23.onnx"].speed.ratio > 0
    assert judged["backbone.static-5.onnx"].accuracy is None
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [each["file"] for each in document["graphs"]] == list(judged)
    assert len(report.details()) == len(judged)
    assert any("held-out images (before 1.0000" in line for line in report.details())


def refused(out, source, error=ExportError, **options) -> str:
    before = old_package(out)
    with pytest.raises(error, match=r"^[^\n]+$") as caught:
        export(out, source, **options)
    assert contents(out.parent) == before
    return str(caught.value)


@pytest.fixture
def converted(monkeypatch):
    """Skip the conversion, which other tests exercise: its result is known."""
    graph = prefix_graph()
    monkeypatch.setattr(OnnxFromTorch, "export", lambda _self, _source: graph)


@pytest.fixture
def narrow(monkeypatch):
    """Calibrate with a twentieth of the real ranges: what is above is cut off."""

    def calibrate_badly(*given):
        return {name: (low / 20, high / 20) for name, (low, high) in calibrate(*given).items()}

    monkeypatch.setattr("pfm_edge_exporters._graphs.calibrate", calibrate_badly)


@pytest.mark.usefixtures("converted", "narrow")
def test_a_graph_that_is_far_from_the_model_is_refused(tmp_path):
    source = prefix_source()
    options = {"precisions": ("int8",), "force": True, "calibration": calibration(source)}
    message = refused(tmp_path / "model", source, ParityError, **options)
    assert message.startswith("backbone.int8.onnx: the graph does not agree with the model")
    assert message.endswith("; leave out --calibration, or calibrate with other images")


@pytest.mark.usefixtures("converted")
def test_a_graph_that_loses_too_much_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    def one_wrong(graph, *given):
        found = predictions(graph, *given)
        found[0] += graph.variant.precision == "int8"  # of sixty: 1.67 points
        return found

    monkeypatch.setattr("pfm_edge_exporters._graphs.predictions", one_wrong)
    source = prefix_source()
    options = {"precisions": ("fp16", "int8"), "force": True, "held_out": held_out(source)}
    message = refused(tmp_path / "model", source, **options)
    assert message.startswith("backbone.int8.onnx: accuracy 0.9833 on 60 held-out images (before 1")
    assert "1.67 points are lost, and 0.5 may be; leave out --precision int8, or r" in message
    report = export(tmp_path / "model", source, **options, max_accuracy_drop=2)
    assert report.graphs[2].accuracy.drop == pytest.approx(100 / 60)


@pytest.mark.usefixtures("converted")
def test_another_image_size_is_judged_by_what_the_model_said_as_trained(tmp_path):
    source = prefix_source()
    known = held_out(source)
    report = export(tmp_path / "model", source, held_out=replace(known, trained=known.labels))
    assert report.graphs[0].accuracy.drop == 0
    others = (known.labels + 1) % CLASSES
    unknown = replace(known, labels=others, trained=others)
    message = refused(tmp_path / "other" / "model", source, held_out=unknown)
    assert "100.00 points are lost, and 0.5 may be; choose another --image-size" in message


@pytest.fixture
def slow(monkeypatch):
    """Every graph takes twice as long as the float32 one."""
    monkeypatch.setattr(
        "pfm_edge_exporters._graphs.compare_speed",
        lambda *_, clock: Speed(before=0.001, after=0.002, rounds=15),
    )


@pytest.mark.usefixtures("converted", "slow")
def test_an_int8_graph_that_is_slower_is_refused(tmp_path):
    message = refused(tmp_path / "model", prefix_source(), precisions=("int8",), machine=VNNI)
    assert message.startswith("backbone.int8.onnx is slower here than backbone.onnx: 0.50 times")
    assert "0.50 times as fast (2.000 ms an image, float32 1.000 ms, best of 15); " in message
    assert message.endswith("leave out --precision int8, or add --force")


@pytest.mark.usefixtures("converted", "slow")
def test_an_opset_23_graph_that_is_slower_is_left_out_and_that_is_said(tmp_path):
    report = export(tmp_path / "model", prefix_source(), opset23=True)
    assert [each.variant.file for each in report.graphs] == ["backbone.onnx"]
    assert "backbone.opset23.onnx" not in report.sizes
    assert report.left_out == report.details()
    (line,) = report.left_out
    assert line.startswith("backbone.opset23.onnx is slower here than backbone.onnx: 0.50 times")
    assert line.endswith("it was left out, --force keeps it")
    manifest = ModelPackage.open(report.path).manifest
    # Without the figures, so that the same verdict makes the same package.
    assert manifest.created_with["left_out"] == (
        "backbone.opset23.onnx: slower than float32 where it was made"
    )
    forced = export(tmp_path / "model", prefix_source(), opset23=True, force=True)
    assert "backbone.opset23.onnx" in forced.sizes
    assert forced.details()[-1].endswith("slower here, and kept by --force")
    assert "left_out" not in ModelPackage.open(forced.path).manifest.created_with


def test_a_processor_without_vnni_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxFromTorch, "export", None)  # a call would be a TypeError
    old = Machine(cpu_flags=lambda: frozenset(["avx2"]))
    message = refused(tmp_path / "model", prefix_source(), precisions=("int8",), machine=old)
    assert "no VNNI" in message
