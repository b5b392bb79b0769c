"""The classifier on static graphs and uint8 images: equal to the dynamic one, before and after."""

import logging
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from pfm_edge_runtime import classifier as module
from pfm_edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import BackendError, BackendUnavailableError, VariantError
from pfm_edge_runtime.manifest import PixelType, Variant
from pfm_edge_runtime.opening import install_bundle
from tests.support.tiny_package import LABELS, TinyPackage, build_bundle, quarter
from tests.support.tiny_variants import BYTES, DYNAMIC, FIXED, HALF, STATIC, write_variants

_FOUR = Variant("backbone.static-4.onnx", "fp32", 4)
_EXACT = (STATIC, FIXED, _FOUR)
_CORRUPT = b"corrupt, but listed with its digest"


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_variants(tmp_path / "model", (DYNAMIC, *_EXACT, HALF, BYTES))


def _open(tiny: TinyPackage, variant: Variant) -> Classifier:
    return Classifier.open(tiny.directory, variant=variant.file, threads=1)


def _labels(model: Classifier) -> list[str]:
    return sorted(each.label for each in model.classes)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("variant", _EXACT, ids=lambda each: each.file)
def test_a_static_graph_says_what_the_dynamic_one_says(
    tmp_path: Path, variant: Variant, dtype: PixelType
) -> None:
    tiny = write_variants(tmp_path / "model", (DYNAMIC, variant), dtype=dtype)
    one, other = _open(tiny, DYNAMIC), _open(tiny, variant)
    images = [quarter(index % 4) for index in range(2 * module._IMAGES_PER_RUN + 3)]

    def compare() -> None:
        np.testing.assert_allclose(one.embed(images), other.embed(images), atol=1e-5)
        for left, right in zip(one.predict(images), other.predict(images), strict=True):
            assert list(left.scores) == list(right.scores)
            assert right.score == pytest.approx(left.score, abs=1e-5)
            assert left.label == right.label

    compare()
    for label in ("rose", "daisy", "violet"):
        other.forget(label)
        compare()
        assert len(other.classes) == len(other.predict(quarter(2)).scores)
    other.forget("tulip")
    np.testing.assert_allclose(one.embed(images), other.embed(images), atol=1e-5)


def test_which_graph_runs(tiny: TinyPackage) -> None:
    assert Classifier.open(tiny.directory).variant == DYNAMIC
    assert Classifier.open(tiny.directory, precision="fp16").variant == HALF
    assert Classifier.open(tiny.directory, precision="int8").variant == BYTES
    assert _open(tiny, STATIC).variant == STATIC
    with pytest.raises(VariantError, match="did you mean"):
        Classifier.open(tiny.directory, variant="backbone.static-66.onnx")


def test_a_graph_that_cannot_be_loaded_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = write_variants(tmp_path / "model", (DYNAMIC, STATIC), graphs={DYNAMIC.file: _CORRUPT})
    with caplog.at_level(logging.WARNING):
        model = Classifier.open(tiny.directory, threads=1)
    assert model.variant == STATIC
    assert "static-6.onnx runs instead" in caplog.text
    assert "backbone.onnx: ONNX Runtime cannot load" in caplog.text
    with pytest.raises(BackendError, match="cannot load"):  # nothing else was asked for
        _open(tiny, DYNAMIC)


def test_where_no_graph_can_be_loaded_the_first_refusal_is_told(tmp_path: Path) -> None:
    graphs = {DYNAMIC.file: _CORRUPT, STATIC.file: _CORRUPT}
    tiny = write_variants(tmp_path / "model", (DYNAMIC, STATIC), graphs=graphs)
    with pytest.raises(BackendError, match=r"/backbone\.onnx: ") as caught:
        Classifier.open(tiny.directory)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_missing_is_missing_for_all(tiny: TinyPackage) -> None:
    load = mock.Mock(side_effect=BackendUnavailableError("pip install it"))
    with (
        mock.patch.object(module, "load_backend", return_value=load),
        pytest.raises(BackendUnavailableError, match="pip install it"),
    ):
        Classifier.open(tiny.directory)
    assert load.call_count == 1


def test_rows_are_arranged_once_and_not_at_every_call(tiny: TinyPackage) -> None:
    """Or every call would leave a copy of them in freed memory."""
    model = _open(tiny, STATIC)
    fed: list[object] = []
    real = OnnxRuntimeBackend.run

    def note(self: OnnxRuntimeBackend, image: object, class_tensors: object) -> object:
        fed.append(class_tensors)
        return real(self, image, class_tensors)  # type: ignore[arg-type]

    with mock.patch.object(OnnxRuntimeBackend, "run", note):
        model.predict(quarter(0))
        model.predict([quarter(1)] * 40)
    with model._live.use() as snapshot:
        assert len(fed) == 4
        assert all(each is snapshot.tensors for each in fed)


def test_padded_tensors_are_zeroed_after_the_last_call_that_reads_them(tiny: TinyPackage) -> None:
    model = _open(tiny, FIXED)
    with model._live.use() as snapshot:
        model.forget("rose")
        assert snapshot.tensors["class_mask"].sum() == 4
        assert snapshot.tensors["class_weight"].any()
    assert not any(tensor.any() for tensor in snapshot.tensors.values())
    with model._live.use() as fresh:
        assert fresh.tensors["class_mask"].tolist() == [True] * 3 + [False] * 4
        assert not fresh.tensors["class_weight"][3:].any()
        assert not fresh.tensors["prompt_values"][:, 3:].any()


# --- a bundle outgrows the graph


def _install_more(tiny: TinyPackage) -> None:
    labels = (*LABELS, "iris")
    bundle = build_bundle((tiny.directory / "manifest.json").read_bytes(), labels, sequence=2)
    install_bundle(tiny.directory, bundle.to_bytes())


def test_a_bundle_that_is_too_large_is_refused_with_the_fix(tiny: TinyPackage) -> None:
    _install_more(tiny)
    with pytest.raises(VariantError, match="up to 4 classes and there are 5: use a dynamic graph"):
        _open(tiny, _FOUR)
    assert len(_open(tiny, STATIC).classes) == 5


def test_a_running_model_that_is_outgrown_goes_on_and_still_forgets(
    tiny: TinyPackage, caplog: pytest.LogCaptureFixture
) -> None:
    model = _open(tiny, _FOUR)
    _install_more(tiny)
    with caplog.at_level(logging.WARNING):
        assert _labels(model) == sorted(LABELS)
        assert _labels(model) == sorted(LABELS)
    assert caplog.text.count("up to 4 classes and there are 5") == 1
    forgotten = model.forget("rose")
    assert forgotten.erased
    assert _labels(model) == sorted({*LABELS, "iris"} - {"rose"})  # there is room again
    assert "rose" not in _labels(_open(tiny, _FOUR))


def test_a_class_goes_though_the_rest_is_still_too_large(tiny: TinyPackage) -> None:
    model = _open(tiny, _FOUR)
    labels = (*LABELS, "iris", "lily")
    bundle = build_bundle((tiny.directory / "manifest.json").read_bytes(), labels, sequence=2)
    install_bundle(tiny.directory, bundle.to_bytes())
    with model._live.use() as before:
        assert model.forget("rose").erased
    assert not any(tensor.any() for tensor in before.tensors.values())
    assert _labels(model) == ["daisy", "tulip", "violet"]
    assert model.predict(quarter(1)).label != "rose"
