"""The classifier on a real ONNX Runtime: predict, embed, forget."""

import io
import threading
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pfm_edge_runtime import classifier as module
from pfm_edge_runtime.backends import Outputs
from pfm_edge_runtime.backends.onnxruntime import OnnxRuntimeBackend
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.errors import (
    BackendError,
    ImageError,
    NoClassLeftError,
    PackageError,
    UnknownClassError,
)
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.package import ModelPackage
from tests.support.tiny_package import (
    CLASS_INPUTS,
    LABELS,
    WIDTH,
    TinyPackage,
    quarter,
    reference,
    write_tiny_package,
)

FloatArray = NDArray[np.float32]


@pytest.fixture
def tiny(tmp_path: Path) -> TinyPackage:
    return write_tiny_package(tmp_path / "model")


@pytest.fixture
def model(tiny: TinyPackage) -> Classifier:
    return Classifier.open(tiny.directory, threads=1)


def _expected(package: ModelPackage, images: list[NDArray[np.uint8]]) -> tuple[FloatArray, ...]:
    pixels = np.stack([image[None] for image in images]).astype(np.float32) / 127.5 - 1
    stored = package.bundle.tensors
    tensors = {
        each.name: np.moveaxis(stored[each.name], 0, each.class_axis) for each in CLASS_INPUTS
    }
    return reference(pixels, tensors)


def test_predicts_the_class_of_each_image(model: Classifier) -> None:
    images = [quarter(index) for index in range(4)]
    assert [found.label for found in model.predict(images)] == list(LABELS)
    assert [model.predict(image).label for image in images] == list(LABELS)


def test_scores_are_the_softmax_over_the_classes_present(
    model: Classifier, tiny: TinyPackage
) -> None:
    logits, _ = _expected(ModelPackage.open(tiny.directory), [quarter(2)])
    weights = np.exp(logits[0].astype(np.float64))
    found = model.predict(quarter(2))
    assert list(found.scores) == [each.class_id for each in model.classes]
    np.testing.assert_allclose(list(found.scores.values()), weights / weights.sum(), atol=1e-6)
    assert sum(found.scores.values()) == pytest.approx(1)
    assert found.score == found.scores[found.class_id] == max(found.scores.values())
    assert all(type(score) is float for score in found.scores.values())
    with pytest.raises(TypeError):
        found.scores[found.class_id] = 0.0  # type: ignore[index]


def test_embeds_as_the_graph_does(model: Classifier, tiny: TinyPackage) -> None:
    images = [quarter(0), quarter(3)]
    _, embedding = _expected(ModelPackage.open(tiny.directory), images)
    np.testing.assert_allclose(model.embed(images), embedding, atol=1e-5)
    assert model.embed(quarter(0)).shape == (1, WIDTH)
    assert model.embed(images).dtype == np.float32


def test_takes_paths_bytes_and_pillow_images_alike(model: Classifier, tmp_path: Path) -> None:
    image = Image.fromarray(quarter(1))
    image.save(tmp_path / "image.png")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    sources = [image, tmp_path / "image.png", str(tmp_path / "image.png"), buffer.getvalue()]
    expected = model.predict(quarter(1))
    assert model.predict(sources) == [expected] * 4
    assert model.predict(tuple(sources)) == [expected] * 4


def test_a_long_list_is_run_in_parts_with_equal_results(model: Classifier) -> None:
    images = [quarter(index % 4) for index in range(2 * module._IMAGES_PER_RUN + 3)]
    found = model.predict(images)
    assert [each.label for each in found] == [LABELS[index % 4] for index in range(len(images))]
    assert model.embed(images).shape == (len(images), WIDTH)


def test_no_image(model: Classifier) -> None:
    assert model.predict([]) == []
    with pytest.raises(ImageError, match="no image"):
        model.embed([])


_BAD_IMAGES: dict[str, object] = {
    "an array with NaN": np.full((4, 4), np.nan),
    "an array of floats": np.zeros((4, 4), np.float32),
    "an array of booleans": np.zeros((4, 4), np.bool_),
    "an array of 16 bits": np.zeros((4, 4), np.uint16),
    "an array of one axis": np.zeros(4, np.uint8),
    "an array with a batch axis": np.zeros((2, 4, 4, 3), np.uint8),
    "an array with channels first": np.zeros((3, 8, 8), np.uint8),
    "an array with five channels": np.zeros((4, 4, 5), np.uint8),
    "an empty array": np.zeros((0, 4), np.uint8),
    "nothing": None,
    "a number": 3,
    "a missing file": "missing.png",
    "bytes of no image": b"no image",
    "a directory": Path(),
}


@pytest.mark.parametrize("image", _BAD_IMAGES.values(), ids=_BAD_IMAGES.keys())
def test_a_bad_image_is_one_line(model: Classifier, image: object) -> None:
    for call in (model.predict, model.embed):
        for images in (image, [quarter(0), image]):
            with pytest.raises(ImageError) as caught:
                call(images)  # type: ignore[operator]
            assert "\n" not in str(caught.value)


# --- forgetting


def test_forgets_in_memory_and_on_disk(model: Classifier, tiny: TinyPackage) -> None:
    class_id = tiny.class_id("rose")
    size = tiny.bundle_path.stat().st_size
    forgotten = model.forget("rose")
    assert forgotten.class_id == class_id
    assert forgotten.bytes_before == size
    assert forgotten.bytes_after == tiny.bundle_path.stat().st_size < size
    assert 0 < forgotten.seconds < 60
    assert tiny.bundle_path.read_bytes() == tiny.bundle.without([class_id]).to_bytes()
    for each in (model, Classifier.open(tiny.directory)):
        assert "rose" not in [known.label for known in each.classes]
        assert class_id not in each.predict(quarter(1)).scores
    logits, embedding = _expected(ModelPackage.open(tiny.directory), [quarter(1)])
    assert logits.shape == (1, 3)
    np.testing.assert_allclose(model.embed(quarter(1)), embedding, atol=1e-5)


def test_forgets_by_id(model: Classifier, tiny: TinyPackage) -> None:
    assert model.forget(tiny.class_id("tulip")).class_id == tiny.class_id("tulip")
    assert sorted(each.label for each in model.classes) == ["daisy", "rose", "violet"]


def test_an_unknown_class_is_never_repeated_nor_is_the_one_that_was_meant(
    model: Classifier,
) -> None:
    with pytest.raises(UnknownClassError) as caught:
        model.forget("Tulpi")
    assert "tul" not in str(caught.value).lower()
    with pytest.raises(UnknownClassError) as caught:
        model.forget("xyzzy")
    assert "xyzzy" not in str(caught.value)
    assert len(model.classes) == 4


def test_a_forgotten_label_is_never_repeated(model: Classifier) -> None:
    model.forget("rose")
    with pytest.raises(UnknownClassError) as caught:
        model.forget("rose")
    assert "rose" not in str(caught.value)


def test_the_last_class_may_go(model: Classifier, tiny: TinyPackage) -> None:
    for label in LABELS:
        model.forget(label)
    assert model.classes == ()
    reopened = Classifier.open(tiny.directory)
    for each in (model, reopened):
        with pytest.raises(NoClassLeftError, match="no class is left"):
            each.predict(quarter(0))
        with pytest.raises(NoClassLeftError):
            each.predict([])
    with pytest.raises(UnknownClassError):
        model.forget("daisy")
    # The real ONNX Runtime runs the graph without a class: the embedding is the backbone's.
    pixels = np.stack([quarter(0)[None]]).astype(np.float32) / 127.5 - 1
    none = {each.name: np.zeros(each.graph_shape(0), np.float32) for each in CLASS_INPUTS}
    np.testing.assert_allclose(reopened.embed(quarter(0)), reference(pixels, none)[1], atol=1e-6)


def test_a_class_that_another_process_forgot_does_not_come_back(
    model: Classifier, tiny: TinyPackage
) -> None:
    forget_classes(tiny.directory, ["daisy"])
    model.forget("rose")
    assert sorted(each.label for each in model.classes) == ["tulip", "violet"]
    assert sorted(ModelPackage.open(tiny.directory).bundle.labels) == ["tulip", "violet"]


def test_forgetting_what_another_process_forgot_drops_it_from_memory(
    model: Classifier, tiny: TinyPackage
) -> None:
    class_id = tiny.class_id("daisy")
    (first,) = forget_classes(tiny.directory, ["daisy"])
    # Nobody called the model since, so it still knows the label: the same receipt, no error.
    forgotten = model.forget("daisy")
    assert (forgotten.class_id, forgotten.receipt) == (class_id, first.receipt)
    assert forgotten.bytes_before == forgotten.bytes_after == tiny.bundle_path.stat().st_size
    assert "daisy" not in [each.label for each in model.classes]
    assert model.forget(class_id).receipt == first.receipt


def test_a_package_that_was_replaced_meanwhile_is_left_alone(
    model: Classifier, tiny: TinyPackage, tmp_path: Path
) -> None:
    other = write_tiny_package(tmp_path / "other", graph=b"another", sequence=2)
    for path in other.directory.iterdir():
        (tiny.directory / path.name).write_bytes(path.read_bytes())
    with pytest.raises(PackageError, match="another package by now"):
        model.forget("rose")
    assert tiny.bundle_path.read_bytes() == other.bundle.to_bytes()
    assert len(model.classes) == 4


def test_forgets_though_the_graph_on_disk_is_damaged(model: Classifier, tiny: TinyPackage) -> None:
    (tiny.directory / "backbone.onnx").write_bytes(b"damaged")
    model.forget("rose")
    assert len(model.classes) == 3


def test_predictions_meanwhile_see_all_of_a_class_or_nothing_of_it(
    model: Classifier, tiny: TinyPackage
) -> None:
    """Eight threads predict while two classes go: every answer is one of the three whole models."""
    before = model.predict(quarter(3))
    wholes = [before]
    for gone in (["daisy"], ["daisy", "rose"]):
        copy = write_tiny_package(tiny.directory.parent / "-".join(gone))
        state = copy.directory / "state"
        forget_classes(copy.directory, gone, state=state)
        wholes.append(Classifier.open(copy.directory, state=state, threads=1).predict(quarter(3)))
    answers, errors, stop = [], [], threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                answers.append(model.predict(quarter(3)))
            except Exception as error:  # a thread's failure must reach the test
                errors.append(error)
                return

    threads = [threading.Thread(target=serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    model.forget("daisy")
    model.forget("rose")
    last = model.predict(quarter(3))
    stop.set()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert last == wholes[2]
    assert answers
    assert all(answer in wholes for answer in answers)


def test_threads_that_forget_different_classes_both_succeed(
    model: Classifier, tiny: TinyPackage
) -> None:
    other = Classifier.open(tiny.directory, threads=1)
    jobs = [(model, "daisy"), (other, "rose"), (model, "tulip")]
    threads = [threading.Thread(target=each.forget, args=(label,)) for each, label in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ModelPackage.open(tiny.directory).bundle.labels == ("violet",)


# --- what the backend gives is checked


class _Stub:
    """A backend whose outputs a test decides."""

    def __init__(self, outputs: Outputs | BackendError) -> None:
        self.outputs = outputs

    def run(self, image: FloatArray, class_tensors: Mapping[str, FloatArray]) -> Outputs:
        if isinstance(self.outputs, BackendError):
            raise self.outputs
        return self.outputs

    def describe(self) -> str:
        return "a stub"


def _with_outputs(tiny: TinyPackage, outputs: Outputs | BackendError) -> Classifier:
    load = mock.Mock(return_value=_Stub(outputs))
    with mock.patch.object(module, "load_backend", return_value=load):
        return Classifier.open(tiny.directory)


def _outputs(logits: object, embedding: object) -> Outputs:
    return Outputs(np.array(logits, np.float32), np.array(embedding, np.float32))


_BAD_OUTPUTS = {
    "a NaN logit": (_outputs([[1, 2, np.nan, 4]], [[1]]), "not finite"),
    "an infinite embedding": (_outputs([[1, 2, 3, 4]], [[np.inf]]), "not finite"),
    "a logit too few": (_outputs([[1, 2, 3]], [[1]]), "4 classes"),
    "a row too many": (_outputs([[1, 2, 3, 4]] * 2, [[1]] * 2), "1 images"),
}


@pytest.mark.parametrize(("outputs", "message"), _BAD_OUTPUTS.values(), ids=_BAD_OUTPUTS.keys())
def test_bad_outputs_are_one_line(tiny: TinyPackage, outputs: Outputs, message: str) -> None:
    model = _with_outputs(tiny, outputs)
    for call in (model.predict, model.embed):
        with pytest.raises(BackendError, match=message) as caught:
            call(quarter(0))
        assert "\n" not in str(caught.value)


def test_large_logits_do_not_overflow(tiny: TinyPackage) -> None:
    found = _with_outputs(tiny, _outputs([[3e38, -3e38, 0, 1]], [[1]])).predict(quarter(0))
    assert found.score == 1.0
    assert sum(found.scores.values()) == 1.0


def test_a_backend_that_needs_a_class_says_so(tiny: TinyPackage) -> None:
    forget_classes(tiny.directory, LABELS)
    model = _with_outputs(tiny, BackendError("no empty tensors here"))
    with pytest.raises(NoClassLeftError, match="no empty tensors here"):
        model.embed(quarter(0))


def test_a_corrupt_graph_is_one_line(tmp_path: Path) -> None:
    tiny = write_tiny_package(tmp_path / "model", graph=b"corrupt, but listed with its digest")
    with pytest.raises(BackendError) as caught:
        Classifier.open(tiny.directory)
    assert "\n" not in str(caught.value)


def test_an_unknown_backend(tiny: TinyPackage) -> None:
    with pytest.raises(BackendError, match="onnxruntime"):
        Classifier.open(tiny.directory, backend="onnxruntim")


def test_threads_are_handed_to_the_backend(tiny: TinyPackage) -> None:
    load = mock.Mock(side_effect=OnnxRuntimeBackend)
    with mock.patch.object(module, "load_backend", return_value=load):
        Classifier.open(tiny.directory, threads=1)
    assert load.call_args.kwargs == {"threads": 1}
