"""Model against graph: what passes, what is found, and that each finding is one clear line."""

import json

import numpy as np
import pytest

from pfm_edge_exporters import ExportError, ParityError, check_parity, parity_classes
from pfm_edge_exporters._noise import noise_images, seeded
from pfm_edge_runtime.agreement import Tolerance
from pfm_edge_runtime.backends import Outputs
from pfm_edge_runtime.errors import BackendError
from tests.support.numpy_model import MODEL_ID, NumpyBackend, numpy_source, reference, synthesize


def failure(backend, source=None, error=ParityError, **options):
    with pytest.raises(error) as caught:
        check_parity(reference, backend, source or numpy_source(), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def at(batch, classes, change):
    """Return a fault that strikes at one point of the grid alone."""

    def fault(outputs):
        struck = outputs.logits.shape == (batch, classes)
        return change(outputs) if struck else outputs

    return NumpyBackend(fault)


def shifted(outputs, amount=3e-4):
    return Outputs(outputs.logits, outputs.embedding + np.float32(amount))


def test_a_faithful_graph_passes_at_every_point():
    report = check_parity(reference, NumpyBackend(), numpy_source(), classes=(1, 2, 7, 30))
    grid = [(row.batch, row.classes) for row in report.rows]
    assert grid == [(b, c) for c in (1, 2, 7, 30) for b in (1, 2, 5)]
    assert report.worst == 0
    assert report.sensitivity > 1e-2
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["worst"] == 0


def test_the_report_keeps_the_largest_difference():
    report = check_parity(
        reference, at(2, 7, lambda o: shifted(o, 5e-5)), numpy_source(), classes=(1, 7)
    )
    assert report.worst == pytest.approx(5e-5, rel=0.02)
    worst = max(report.rows, key=lambda row: row.worst)
    assert (worst.batch, worst.classes, worst.difference.logits) == (2, 7, 0)


def test_a_difference_at_one_point_is_found_and_named():
    message = failure(at(5, 2, shifted))
    assert "5 images and 2 classes" in message
    assert "embedding values differ by 3.0e-04 (tolerance 1e-04)" in message


def test_the_tolerance_is_the_callers():
    wide, like = Tolerance(absolute=1e-3), Tolerance(cosine=0.99)
    for tolerance in (wide, like):
        report = check_parity(reference, at(5, 2, shifted), numpy_source(), tolerance=tolerance)
        assert report.worst > 1e-4
    message = failure(at(5, 2, lambda o: shifted(o, 1)), tolerance=like)
    assert "for 5 images and 2 classes the cosine is 0." in message
    assert message.endswith("(tolerance 0.99)")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("output", ["logits", "embedding"])
def test_a_value_that_is_not_finite_fails(output, value):
    def spoil(outputs):
        getattr(outputs, output).flat[-1] = value
        return outputs

    message = failure(at(1, 7, spoil))
    assert f"1 image and 7 classes the {output} values are not finite" in message


def test_two_equal_nans_are_no_agreement():
    nan = Outputs(np.full((1, 1), np.nan, np.float32), np.zeros((1, 4), np.float32))
    with pytest.raises(ParityError, match="not finite"):
        check_parity(
            lambda *_: nan, NumpyBackend(lambda _: nan), numpy_source(), batches=(1,), classes=(1,)
        )


def test_a_class_axis_that_was_baked_in_shows_as_a_shape():
    baked = NumpyBackend(lambda o: Outputs(np.resize(o.logits, (len(o.logits), 5)), o.embedding))
    message = failure(baked)
    assert message == "for 1 image and 1 class the graph gives logits as [1, 5], not [1, 1]"


def test_a_graph_that_does_not_run_is_named_by_the_point():
    def refuse(outputs):
        raise BackendError("Reshape wants 5")

    message = failure(at(2, 1, refuse))
    assert message == "the graph does not run for 2 images and 1 class: Reshape wants 5"


def test_a_graph_that_ignores_its_prompts_proves_nothing():
    def blind(image, tensors):
        embedding = image.mean(axis=(1, 3))
        return Outputs(embedding @ tensors["class_weight"].T, embedding)

    class Blind(NumpyBackend):
        def run(self, image, class_tensors):
            return blind(image, class_tensors)

    with pytest.raises(ParityError, match="dropping one of 2 classes changes nothing"):
        check_parity(blind, Blind(), numpy_source())


def test_one_class_alone_has_no_sensitivity():
    assert check_parity(reference, NumpyBackend(), numpy_source(), classes=(1,)).sensitivity is None


def test_a_bare_backbone_has_no_classes_axis():
    report = check_parity(reference, NumpyBackend(), numpy_source(class_inputs=()))
    assert [(row.batch, row.classes) for row in report.rows] == [(1, 0), (2, 0), (5, 0)]
    assert report.sensitivity is None


def with_prompts(change):
    return lambda count, draw: {
        **synthesize(count, draw),
        "prompts": change(synthesize(count, draw)["prompts"]),
    }


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda count, draw: {}, "class tensors []"),
        (lambda count, draw: {**synthesize(count, draw), "more": np.zeros(1)}, "'more'"),
        (with_prompts(lambda p: p.astype(np.float64)), "prompts as float64 [2, 1, 4]"),
        (with_prompts(lambda p: p.swapaxes(0, 1)), "1 classes need float32 [2, 1, 4]"),
        (with_prompts(lambda p: p * np.float32(np.nan)), "not finite"),
    ],
)
def test_what_synthesize_promises_is_checked(broken, words):
    assert words in failure(NumpyBackend(), numpy_source(synthesize=broken), ExportError)


def test_noise_depends_on_model_and_purpose_alone():
    image = numpy_source().image
    one = noise_images(image, 2, seeded(MODEL_ID, "golden"))
    np.testing.assert_array_equal(one, noise_images(image, 2, seeded(MODEL_ID, "golden")))
    assert one.shape == (2, 1, 4, 4)
    assert one.dtype == np.float32
    assert not np.array_equal(one, noise_images(image, 2, seeded(MODEL_ID, "parity")))
    assert not np.array_equal(one, noise_images(image, 2, seeded("sha256:00", "golden")))


def test_the_grid_has_the_models_own_number_of_classes():
    assert parity_classes(100) == (1, 2, 7, 100)
    assert parity_classes(2) == (1, 2, 7)
    assert parity_classes(3) == (1, 2, 3, 7)
