"""The manifest: deterministic both ways, and nothing that exists is malformed."""

import json
from dataclasses import replace
from typing import Any

import pytest

from pfm_edge_runtime.errors import ManifestError, PackageError
from pfm_edge_runtime.manifest import (
    ClassInput,
    ImageInput,
    Manifest,
    ModelId,
    Preprocessing,
    Variant,
)
from tests.support.tiny_package import tiny_manifest

_FILES = {"backbone.onnx": b"graph", "golden.safetensors": b"golden"}

# What architecture.md shows, with the digests and numbers filled in: literal bytes, so that a
# change of the writer cannot go unnoticed.
_LITERAL = b"""{
  "format": "pfm-package/1",
  "model_id": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
  "attention": "prefix",
  "image": {
    "name": "image",
    "dtype": "float32",
    "shape": [
      "batch",
      1,
      8,
      8
    ]
  },
  "class_inputs": [
    {
      "name": "prompt_keys",
      "dtype": "float32",
      "slice_shape": [
        12,
        6,
        64
      ],
      "class_axis": 2
    }
  ],
  "outputs": [
    "logits",
    "embedding"
  ],
  "preprocessing": {
    "mode": "L",
    "resize": 8,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": [
      0.5
    ],
    "std": [
      0.25
    ]
  },
  "variants": [
    {
      "file": "backbone.onnx",
      "precision": "fp32",
      "capacity": null,
      "batch": null,
      "opset": 18
    },
    {
      "file": "static-8.onnx",
      "precision": "int8",
      "capacity": 8,
      "batch": 2,
      "opset": 23
    }
  ],
  "files": {
    "backbone.onnx": "sha256:1111111111111111111111111111111111111111111111111111111111111111",
    "static-8.onnx": "sha256:2222222222222222222222222222222222222222222222222222222222222222"
  },
  "created_with": {
    "torch": "2.9"
  }
}
"""


def _literal_manifest() -> Manifest:
    return Manifest(
        model_id=ModelId("sha256:" + "0" * 64),
        attention="prefix",
        image=ImageInput("image", (1, 8, 8)),
        class_inputs=(ClassInput("prompt_keys", (12, 6, 64), 2),),
        preprocessing=Preprocessing("L", 8, "bicubic", 0.875, "center", (0.5,), (0.25,)),
        variants=(
            Variant("backbone.onnx", "fp32"),
            Variant("static-8.onnx", "int8", 8, 2, 23),
        ),
        files={
            "backbone.onnx": "sha256:" + "1" * 64,
            "static-8.onnx": "sha256:" + "2" * 64,
        },
        created_with={"torch": "2.9"},
    )


def test_literal_bytes_both_ways() -> None:
    assert Manifest.from_bytes(_LITERAL) == _literal_manifest()
    assert _literal_manifest().to_bytes() == _LITERAL


def test_order_of_files_changes_no_byte() -> None:
    manifest = tiny_manifest(_FILES)
    reordered = replace(manifest, files=dict(reversed(manifest.files.items())))
    assert reordered.to_bytes() == manifest.to_bytes()


def test_integers_are_read_as_the_numbers_they_are() -> None:
    document = json.loads(_LITERAL)
    document["preprocessing"] |= {"crop_pct": 1, "mean": [0], "std": [1]}
    spec = Manifest.from_bytes(json.dumps(document).encode()).preprocessing
    assert (spec.crop_pct, spec.mean, spec.std) == (1.0, (0.0,), (1.0,))
    assert all(type(each) is float for each in (spec.crop_pct, *spec.mean, *spec.std))


@pytest.mark.parametrize(
    ("axis", "expected"),
    [(0, (10, 12, 6, 64)), (2, (12, 6, 10, 64)), (3, (12, 6, 64, 10))],
)
def test_graph_shape_inserts_the_class_axis(axis: int, expected: tuple[int, ...]) -> None:
    assert ClassInput("prompt_keys", (12, 6, 64), axis).graph_shape(10) == expected


def test_graph_shape_of_a_number_per_class() -> None:
    assert ClassInput("class_bias", (), 0).graph_shape(0) == (0,)


def test_mappings_cannot_be_changed() -> None:
    files = dict(_literal_manifest().files)
    manifest = replace(_literal_manifest(), files=files)
    files.clear()
    assert len(manifest.files) == 2
    with pytest.raises(TypeError):
        manifest.files["other"] = "x"  # type: ignore[index]


def test_a_uint8_image_both_ways() -> None:
    text = _LITERAL.replace(b'"image",\n    "dtype": "float32"', b'"image",\n    "dtype": "uint8"')
    manifest = Manifest.from_bytes(text)
    assert manifest.image == ImageInput("image", (1, 8, 8), "uint8")
    assert manifest.to_bytes() == text != _LITERAL


def test_bundle_inputs() -> None:
    assert _literal_manifest().bundle_inputs == (("prompt_keys", (12, 6, 64)),)


def _set(path: str, value: object) -> Any:
    """Return the literal manifest as JSON, with one value replaced."""
    document = json.loads(_LITERAL)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    target = document
    for key in parents:
        target = target[key]
    target[last] = value
    return document


_BAD_VALUES: dict[str, tuple[str, object]] = {
    "format_of_another_version": ("format", "pfm-package/2"),
    "model_id_in_upper_case": ("model_id", "sha256:" + "A" * 64),
    "model_id_without_prefix": ("model_id", "0" * 64),
    "model_id_is_a_number": ("model_id", 7),
    "attention_is_no_word": ("attention", "pre fix"),
    "image_is_a_list": ("image", []),
    "image_dtype": ("image/dtype", "float16"),
    "image_dtype_is_a_number": ("image/dtype", 8),
    "image_without_batch": ("image/shape", [1, 8, 8]),
    "image_with_two_axes": ("image/shape", ["batch", 8, 8]),
    "image_of_zero_width": ("image/shape", ["batch", 1, 8, 0]),
    "image_of_true_width": ("image/shape", ["batch", 1, 8, True]),
    "image_with_text_as_size": ("image/shape", ["batch", 1, 8, "w"]),
    "image_channels_of_another_mode": ("image/shape", ["batch", 3, 8, 8]),
    "no_class_inputs": ("class_inputs", []),
    "class_input_is_text": ("class_inputs/0", "prompt_keys"),
    "class_input_dtype": ("class_inputs/0/dtype", "float64"),
    "class_input_named_like_a_path": ("class_inputs/0/name", "../prompt"),
    "class_input_named_like_the_image": ("class_inputs/0/name", "image"),
    "class_axis_beyond_the_shape": ("class_inputs/0/class_axis", 4),
    "class_axis_negative": ("class_inputs/0/class_axis", -1),
    "class_axis_is_true": ("class_inputs/0/class_axis", True),
    "slice_with_a_fraction": ("class_inputs/0/slice_shape", [12.0, 6, 64]),
    "slice_with_eight_axes": ("class_inputs/0/slice_shape", [1] * 8),
    "slice_of_zero_size": ("class_inputs/0/slice_shape", [0]),
    "outputs_swapped": ("outputs", ["embedding", "logits"]),
    "mode_unknown": ("preprocessing/mode", "CMYK"),
    "interpolation_unknown": ("preprocessing/interpolation", "random"),
    "crop_mode_unknown": ("preprocessing/crop_mode", "border"),
    "crop_pct_zero": ("preprocessing/crop_pct", 0),
    "crop_pct_is_text": ("preprocessing/crop_pct", "0.9"),
    "crop_pct_is_true": ("preprocessing/crop_pct", True),
    "resize_with_a_fraction": ("preprocessing/resize", 8.5),
    "mean_of_three_channels_for_grey": ("preprocessing/mean", [0.5, 0.5, 0.5]),
    "std_of_zero": ("preprocessing/std", [0.0]),
    "no_variants": ("variants", []),
    "variant_missing_from_files": ("variants/0/file", "other.onnx"),
    "variant_twice": ("variants/1/file", "backbone.onnx"),
    "variant_of_capacity_zero": ("variants/1/capacity", 0),
    "variant_of_capacity_true": ("variants/1/capacity", True),
    "variant_of_batch_zero": ("variants/1/batch", 0),
    "variant_of_a_batch_without_capacity": ("variants/1/capacity", None),
    "variant_of_opset_17": ("variants/1/opset", 17),
    "variant_of_opset_18_0": ("variants/1/opset", 18.0),
    "variant_precision_unknown": ("variants/1/precision", "bf16"),
    "first_variant_is_static": ("variants/0/capacity", 8),
    "first_variant_is_fp16": ("variants/0/precision", "fp16"),
    "first_variant_is_of_opset_23": ("variants/0/opset", 23),
    "file_outside_the_package": ("files/..%2fbackbone", "sha256:" + "1" * 64),
    "file_in_a_parent": ("files", {"../backbone.onnx": "sha256:" + "1" * 64}),
    "file_is_hidden": ("files", {".backbone.onnx": "sha256:" + "1" * 64}),
    "file_is_the_manifest": ("files/manifest.json", "sha256:" + "1" * 64),
    "file_is_the_bundle": ("files/bundle.safetensors", "sha256:" + "1" * 64),
    "file_with_a_short_digest": ("files/backbone.onnx", "sha256:11"),
    "created_with_a_number": ("created_with/torch", 2),
    "unknown_key": ("issued_at", "2026-01-01"),
    "unknown_key_inside": ("variants/0/size", 1),
}


@pytest.mark.parametrize(("path", "value"), _BAD_VALUES.values(), ids=_BAD_VALUES.keys())
def test_refuses_bad_values(path: str, value: object) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(json.dumps(_set(path, value)).encode())
    assert "\n" not in str(caught.value)


def _keys(value: object, path: str = "") -> list[str]:
    if isinstance(value, list):
        return _keys(value[0], f"{path}0/") if value else []
    if not isinstance(value, dict):
        return []
    return [p for key, each in value.items() for p in (path + key, *_keys(each, f"{path}{key}/"))]


@pytest.mark.parametrize(
    "path",
    [key for key in _keys(json.loads(_LITERAL)) if not key.startswith(("files/", "created_with/"))],
)
def test_names_the_key_that_is_missing(path: str) -> None:
    document = json.loads(_LITERAL)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    target = document
    for key in parents:
        target = target[key]
    del target[last]
    with pytest.raises(ManifestError, match=str(last)):
        Manifest.from_bytes(json.dumps(document).encode())


_BAD_TEXTS = {
    "empty": b"",
    "cut_short": _LITERAL[:-3],
    "an_array": b"[]",
    "duplicate_key": _LITERAL.replace(b'"outputs"', b'"attention": "joint", "outputs"'),
    "nan": _LITERAL.replace(b"0.875", b"NaN"),
    "too_long": b" " * 2**20 + _LITERAL,
    "no_utf8": _LITERAL.replace(b"2.9", b"\xff"),
}


@pytest.mark.parametrize("data", _BAD_TEXTS.values(), ids=_BAD_TEXTS.keys())
def test_refuses_bad_texts(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data)


def test_values_are_checked_without_json_too() -> None:
    with pytest.raises(ManifestError, match="class_axis"):
        ClassInput("prompts", (4,), 2)
    with pytest.raises(ManifestError, match="crop_pct"):
        Preprocessing("L", 8, "bicubic", float("nan"), "center", (0.5,), (0.5,))
    with pytest.raises(ManifestError, match="std"):
        Preprocessing("L", 8, "bicubic", 1.0, "center", (0.5,), (float("inf"),))


def test_a_manifest_error_is_a_package_error() -> None:
    assert issubclass(ManifestError, PackageError)
