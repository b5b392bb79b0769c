"""A Triton repository: its configuration by Triton's own protobuf, its model by ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest

from pfm_edge_exporters._class_inputs import bake_classes
from pfm_edge_exporters.errors import ExportError, ParityError
from pfm_edge_exporters.targets import TargetReport, export_target, find_target, parse_options
from pfm_edge_runtime.backends import load_backend
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import ConfigError, StorageError
from pfm_edge_runtime.forgetting import forget_classes
from tests.support.tiny_package import TinyPackage, quarter, tiny_graph, write_tiny_package
from tests.support.tiny_torch import joint_graph, joint_source, prefix_graph, prefix_source
from tests.support.tiny_variants import DYNAMIC, HALF, STATIC, write_variants


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


def export(package: Path, *given: str, **how: object) -> TargetReport:
    target = find_target("triton")
    return export_target(package, target, parse_options(target.name, target.options, given), **how)


def model_of(report: TargetReport) -> Path:
    (path,) = report.path.glob("*/model.onnx")
    return path


def parsed(text: str):
    pb2 = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed"
    )
    from google.protobuf import text_format

    return pb2, text_format.Parse(text, pb2.ModelConfig())


def test_triton_reads_the_configuration(tiny):
    report = export(tiny.directory, "name=digits", "max-batch=16", "kind=gpu", "instances=2")
    pb2, config = parsed((report.path / "config.pbtxt").read_text())
    assert report.path == tiny.directory.with_name("model-triton") / "digits"
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 16)
    (image,) = config.input
    assert (image.name, image.data_type, list(image.dims)) == ("image", pb2.TYPE_FP32, [1, 4, 4])
    logits, embedding = config.output
    assert (logits.name, list(logits.dims)) == ("logits", [-1])
    assert (embedding.name, list(embedding.dims)) == ("embedding", [4])
    assert (report.path / logits.label_filename).read_text().split() == [
        each.label for each in Classifier.open(tiny.directory).classes
    ]
    (group,) = config.instance_group
    assert (group.kind, group.count) == (pb2.ModelInstanceGroup.KIND_GPU, 2)
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.version_policy.latest.num_versions == 1


def test_pixels_and_half_precision_are_served_as_the_package_has_them(tmp_path):
    package = write_variants(tmp_path / "model", (DYNAMIC, HALF), dtype="uint8")
    report = export(package.directory, f"variant={HALF.file}")
    pb2, config = parsed((report.path / "config.pbtxt").read_text())
    assert config.input[0].data_type == pb2.TYPE_UINT8
    pixels = np.stack([quarter(each)[None] for each in range(4)])
    logits = load_backend("onnxruntime")(model_of(report)).run(pixels, {}).logits
    best = [package.bundle.labels[each] for each in logits.argmax(axis=1)]
    assert best == ["daisy", "rose", "tulip", "violet"]


def test_the_model_gives_the_packages_logits(tiny):
    report = export(tiny.directory)
    backend = load_backend("onnxruntime")(model_of(report))
    images = np.stack([(quarter(each) / 127.5 - 1)[None] for each in range(4)]).astype(np.float32)
    model = Classifier.open(tiny.directory)
    scores = [dict(each.scores) for each in model.predict([quarter(each) for each in range(4)])]
    logits = backend.run(images, {}).logits.astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, expected in zip(softmax, scores, strict=True):
        assert np.allclose(row, [expected[each.class_id] for each in model.classes], atol=1e-6)


@pytest.mark.parametrize(
    ("graph", "source"), [(prefix_graph, prefix_source), (joint_graph, joint_source)]
)
def test_a_transformer_with_its_classes_inside_gives_the_same(graph, source):
    tensors = source().synthesize(3, np.random.default_rng(1))
    images = np.random.default_rng(2).standard_normal((5, 1, 8, 8), dtype=np.float32)
    load = load_backend("onnxruntime")
    expected = load(graph()).run(images, tensors)
    found = load(bake_classes(graph(), tensors)).run(images, {})
    assert np.abs(found.logits - expected.logits).max() < 1e-5
    assert np.abs(found.embedding - expected.embedding).max() < 1e-5


def test_two_exports_are_the_same_bytes_with_nothing_shared(tiny, tmp_path):
    first, second = (export(tiny.directory, out=tmp_path / name) for name in ("one", "two"))
    for path in sorted(first.path.rglob("*")):
        other = second.path / path.relative_to(first.path)
        assert not path.is_symlink()
        assert path.is_dir() or path.read_bytes() == other.read_bytes()
        assert path.is_dir() or path.stat().st_nlink == 1
    assert sorted(first.sizes) == sorted(
        ["1000000001/model.onnx", "config.pbtxt", "labels.txt", "target.json"]
    )


def test_a_newer_bundle_takes_the_place_of_the_older_version(tmp_path):
    older = write_tiny_package(tmp_path / "older" / "model", sequence=3)
    newer = write_tiny_package(tmp_path / "newer" / "model", sequence=4, classes=2)
    repository = tmp_path / "repository"
    export(older.directory, out=repository)
    with pytest.raises(StorageError, match="add --overwrite"):
        export(newer.directory, out=repository)
    report = export(newer.directory, out=repository, overwrite=True)
    assert model_of(report).parent.name == "1000000004"
    assert [each.name for each in repository.iterdir()] == ["model"]
    assert (report.path / "labels.txt").read_text().splitlines() == ["daisy", "rose"]


def test_what_cannot_be_served_is_refused_and_leaves_nothing(tiny, tmp_path):
    forgotten = write_tiny_package(tmp_path / "none", classes=1)
    forget_classes(forgotten.directory, [forgotten.class_id("daisy")])
    static = write_variants(tmp_path / "static", (tiny.manifest.variants[0], STATIC))
    before = sorted(tmp_path.rglob("*"))
    for package, given, message in (
        (tiny, ["name=a/b"], "cannot name a model of a repository"),
        (tiny, ["name=.hidden"], "cannot name a model of a repository"),
        (tiny, ["variant=backbone.onxn"], "did you mean 'backbone.onnx'"),
        (static, [f"variant={STATIC.file}"], "has a fixed number of classes"),
        (forgotten, [], "its bundle holds no class"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(package.directory, *given)
    with pytest.raises(ConfigError, match="is in the model package"):
        export(tiny.directory, out=tiny.directory / "served")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_graph_with_other_inputs_is_refused():
    with pytest.raises(ExportError, match="not an image and"):
        bake_classes(tiny_graph(), {"class_bias": np.zeros(3, np.float32)})
    with pytest.raises(ExportError, match="no ONNX file"):
        bake_classes(b"\xff\xff", {})


def test_a_model_that_differs_is_not_written(tiny, monkeypatch):
    def spoilt(graph, tensors):
        return bake_classes(graph, tensors | {"class_bias": tensors["class_bias"] + 1})

    monkeypatch.setattr("pfm_edge_exporters.targets.triton.bake_classes", spoilt)
    with pytest.raises(ParityError, match="does not agree with the graph that it was made from"):
        export(tiny.directory)
    assert not tiny.directory.with_name("model-triton").exists()
