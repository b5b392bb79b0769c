"""Which graph runs, and what a static one is fed: rows, zeros, a mask, batches of its size."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pfm_edge_runtime._layout import ClassLayout
from pfm_edge_runtime.backends import InputArray, Outputs
from pfm_edge_runtime.errors import BackendError, PackageError, VariantError
from pfm_edge_runtime.manifest import MASK_INPUT, Variant
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.variants import (
    VariantGraph,
    load_variant,
    require_room,
    suitable_variants,
)
from tests.support.tiny_package import CLASS_INPUTS, WIDTH, class_tensors, tiny_manifest
from tests.support.tiny_variants import BYTES, DYNAMIC, FIXED, HALF, STATIC, write_variants

FloatArray = NDArray[np.float32]

_ALL = (DYNAMIC, STATIC, HALF, BYTES)


@pytest.fixture
def files(tmp_path: Path) -> PackageFiles:
    return PackageFiles.open(write_variants(tmp_path / "model", _ALL).directory)


class _Echo:
    """Keeps copies of what it was fed; its logits are the row's number."""

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.images: list[NDArray[np.float32]] = []
        self.fed: list[dict[str, InputArray]] = []
        self.live: list[Mapping[str, InputArray]] = []

    def run(self, image: FloatArray, class_tensors: Mapping[str, InputArray]) -> Outputs:
        self.images.append(image.copy())
        self.fed.append({name: array.copy() for name, array in class_tensors.items()})
        self.live.append(class_tensors)
        count = self.capacity or len(class_tensors["class_weight"])
        logits = np.tile(np.arange(count, dtype=np.float32), (len(image), 1))
        logits += image.reshape(len(image), -1)[:, :1]
        return Outputs(logits, image.reshape(len(image), -1)[:, :WIDTH].copy())

    def describe(self) -> str:
        return "an echo"


def _graph(variant: Variant) -> tuple[VariantGraph, _Echo]:
    echo = _Echo(variant.capacity)
    manifest = tiny_manifest({"backbone.onnx": b""})
    return VariantGraph.of(echo, variant, manifest), echo


def _tensors(count: int) -> dict[str, FloatArray]:
    slices = [class_tensors(index) for index in range(count)]
    return {
        each.name: np.stack([found[each.name] for found in slices], axis=each.class_axis)
        if slices
        else np.zeros(each.graph_shape(0), np.float32)
        for each in CLASS_INPUTS
    }


def _images(count: int) -> FloatArray:
    return np.random.default_rng(0).standard_normal((count, 1, 4, 4), dtype=np.float32)


# --- which graph


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, _ALL),
        ({"precision": "fp16"}, (HALF,)),
        ({"precision": "fp32"}, (DYNAMIC, STATIC)),
        ({"variant": STATIC.file}, (STATIC,)),
        ({"variant": BYTES.file, "precision": "int8"}, (BYTES,)),
    ],
)
def test_the_graphs_that_fit_in_the_order_of_the_manifest(
    files: PackageFiles, wanted: dict[str, str], expected: tuple[Variant, ...]
) -> None:
    assert suitable_variants(files, classes=4, **wanted) == expected


def test_a_graph_that_is_too_small_is_passed_over(files: PackageFiles) -> None:
    assert suitable_variants(files, classes=6) == (DYNAMIC, STATIC, HALF)
    assert suitable_variants(files, classes=7) == (DYNAMIC, HALF)


_REFUSED: list[tuple[dict[str, str], int, str]] = [
    ({"variant": "backbone.fp61.onnx"}, 4, r"fp61\.onnx' \(did you mean '.*'\?\): it has"),
    ({"variant": DYNAMIC.file, "precision": "fp16"}, 4, r"no graph backbone\.onnx in fp16"),
    ({"variant": STATIC.file}, 7, r"static-6\.onnx takes up to 6 classes and there are 7: .*es 7$"),
    ({"precision": "int8"}, 6, r"int8\.static-5\.onnx takes up to 5 classes and there are 6"),
]


@pytest.mark.parametrize(("wanted", "classes", "message"), _REFUSED)
def test_what_is_not_there_is_refused_by_name(
    files: PackageFiles, wanted: dict[str, str], classes: int, message: str
) -> None:
    with pytest.raises(VariantError, match=message) as caught:
        suitable_variants(files, classes=classes, **wanted)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PackageError)


def test_a_precision_that_was_not_exported(tmp_path: Path) -> None:
    files = PackageFiles.open(write_variants(tmp_path / "model", (DYNAMIC,)).directory)
    with pytest.raises(VariantError, match="it has fp32; export it again with --precision"):
        suitable_variants(files, classes=4, precision="int8")


def test_a_graph_that_cannot_be_loaded_is_named(files: PackageFiles) -> None:
    def refuse(graph: Path | bytes, /, *, threads: int | None = None) -> VariantGraph:
        raise BackendError("no")

    with pytest.raises(BackendError, match=r"model/backbone\.fp16\.onnx: no$"):
        load_variant(files, HALF, refuse)  # type: ignore[arg-type]


def test_room_is_required() -> None:
    require_room(DYNAMIC, 10_000)
    require_room(STATIC, 6)
    with pytest.raises(VariantError, match="up to 6 classes and there are 7"):
        require_room(STATIC, 7)


# --- what a static graph is fed


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_rows_first_then_zeros_and_a_mask(count: int) -> None:
    graph, echo = _graph(STATIC)
    tensors = _tensors(count)
    outputs = graph.run(_images(2), tensors)
    (fed,) = echo.fed
    assert fed.keys() == {*tensors, MASK_INPUT}
    assert fed[MASK_INPUT].dtype == np.bool_
    assert fed[MASK_INPUT].tolist() == [True] * count + [False] * (6 - count)
    for each in CLASS_INPUTS:
        array = fed[each.name]
        assert array.shape == each.graph_shape(6)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        rows, given = np.moveaxis(array, each.class_axis, 0), tensors[each.name]
        np.testing.assert_array_equal(rows[:count], np.moveaxis(given, each.class_axis, 0))
        assert not rows[count:].any()
    assert outputs.logits.shape == (2, count)
    assert outputs.logits.base is None  # nothing keeps the scores of rows that are not there
    assert outputs.embedding.shape == (2, WIDTH)


def test_what_was_padded_is_zeroed_after_the_run_and_what_was_given_is_left() -> None:
    graph, echo = _graph(FIXED)
    tensors = _tensors(4)
    graph.run(_images(7), tensors)
    assert len(echo.live) == 3  # 7 images in batches of 3
    for fed in echo.live:
        assert not any(array.any() for array in fed.values())
    assert all(array.any() for array in tensors.values())


@pytest.mark.parametrize("images", [1, 2, 3, 4, 7])
def test_batches_are_split_and_filled_with_zeros(images: int) -> None:
    graph, echo = _graph(FIXED)
    given = _images(images)
    outputs = graph.run(given, _tensors(2))
    assert {len(each) for each in echo.images} == {3}
    fed = np.concatenate(echo.images)
    np.testing.assert_array_equal(fed[:images], given)
    assert not fed[images:].any()
    np.testing.assert_array_equal(outputs.embedding, given.reshape(images, -1)[:, :WIDTH])
    assert outputs.logits.shape == (images, 2)


def test_a_fixed_batch_keeps_the_type_of_pixels() -> None:
    graph, echo = _graph(FIXED)
    graph.run(np.full((1, 1, 4, 4), 200, np.uint8), _tensors(1))
    assert echo.images[0].dtype == np.uint8


def test_a_dynamic_graph_is_fed_what_came() -> None:
    graph, echo = _graph(DYNAMIC)
    tensors = _tensors(3)
    assert graph.run(_images(2), tensors).logits.shape == (2, 3)
    assert echo.live[0] is tensors
    assert graph.describe() == "backbone.onnx in an echo"


def test_more_classes_than_rows_never_run() -> None:
    graph, echo = _graph(STATIC)
    with pytest.raises(VariantError, match="up to 6 classes and there are 7"):
        graph.run(_images(1), _tensors(7))
    assert echo.fed == []


def test_class_inputs_that_do_not_fit_each_other_never_run() -> None:
    graph, echo = _graph(STATIC)
    arranged = graph.layout.arrange(graph.layout.rows_of(_tensors(2)))
    with pytest.raises(BackendError, match="class_bias has no row"):
        graph.run_arranged(_images(1), {**arranged, "class_bias": np.zeros(5, np.float32)}, 2)
    with pytest.raises(BackendError, match="class_weight is missing"):
        graph.run(_images(1), {k: v for k, v in _tensors(2).items() if k != "class_weight"})
    assert echo.fed == []


def test_a_graph_that_ignores_its_capacity_is_caught() -> None:
    graph, echo = _graph(STATIC)
    echo.capacity = 5
    with pytest.raises(BackendError, match=r"logits of shape \[1, 5\] for 1 images and 6 classes"):
        graph.run(_images(1), _tensors(2))


# --- rows


@pytest.mark.parametrize("capacity", [None, 6])
def test_some_rows_in_their_order(capacity: int | None) -> None:
    layout = ClassLayout(CLASS_INPUTS, capacity)
    rows = layout.rows_of(layout.arrange(layout.rows_of(_tensors(4))))
    kept = layout.rows_of(layout.arrange(rows, [0, 3]))
    for name, array in kept.items():
        np.testing.assert_array_equal(array[:2], rows[name][[0, 3]])
        assert not array[2:].any()


def test_every_array_is_new() -> None:
    layout = ClassLayout(CLASS_INPUTS)
    tensors = _tensors(3)
    for name, array in layout.arrange(layout.rows_of(tensors)).items():
        assert not np.shares_memory(array, tensors[name])


def test_a_name_that_a_static_graph_needs_is_no_class_input() -> None:
    manifest = tiny_manifest({"backbone.onnx": b""})
    renamed = replace(manifest.class_inputs[2], name=MASK_INPUT)
    with pytest.raises(PackageError, match="class_mask"):
        replace(manifest, class_inputs=(*manifest.class_inputs[:2], renamed))
