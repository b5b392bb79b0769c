"""The JSON of ``manifest.json``, both ways; ``pfm_edge_runtime.manifest`` is its front door.

Owns types and keys; what the values may be is checked by the dataclasses themselves::

    decode(encode(manifest)) == manifest
"""

import json
from collections.abc import Callable
from typing import TypeVar, cast

from pfm_edge_runtime._strict_json import JsonLimits, JsonValue, StrictJsonError, parse
from pfm_edge_runtime.errors import ManifestError
from pfm_edge_runtime.manifest import (
    ClassInput,
    CropMode,
    ImageInput,
    Interpolation,
    Manifest,
    Mode,
    ModelId,
    PixelType,
    Precision,
    Preprocessing,
    Variant,
)

__all__ = ["decode", "encode"]

_FORMAT = "pfm-package/1"
_DTYPE = "float32"
_BATCH = "batch"
_LIMITS = JsonLimits(max_bytes=2**20, max_depth=8, max_containers=1_000)

_T = TypeVar("_T")


def decode(data: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        ManifestError: The text breaks the format.
    """
    try:
        value = parse(data, _LIMITS)
    except StrictJsonError as error:
        raise ManifestError(f"manifest.json {error}") from error
    if not isinstance(value, dict):
        raise ManifestError("manifest.json is no JSON object")
    if value.get("format") != _FORMAT:
        raise ManifestError(f"format is not {_FORMAT!r}: another version of pfm-edge wrote it")
    top = _Object(value, "")
    manifest = Manifest(
        model_id=ModelId(top.text("model_id")),
        attention=top.text("attention"),
        image=_image(top.child("image")),
        class_inputs=tuple(top.children("class_inputs", _class_input)),
        outputs=tuple(top.list_of("outputs", str)),
        preprocessing=_preprocessing(top.child("preprocessing")),
        variants=tuple(top.children("variants", _variant)),
        files=top.texts("files"),
        created_with=top.texts("created_with"),
    )
    top.done("format")
    return manifest


def encode(manifest: Manifest) -> bytes:
    """Write a manifest; the order of the keys is the order in which one reads them."""
    document = {
        "format": _FORMAT,
        "model_id": manifest.model_id,
        "attention": manifest.attention,
        "image": _image_object(manifest.image),
        "class_inputs": [_class_input_object(each) for each in manifest.class_inputs],
        "outputs": list(manifest.outputs),
        "preprocessing": _preprocessing_object(manifest.preprocessing),
        "variants": [_variant_object(each) for each in manifest.variants],
        "files": dict(sorted(manifest.files.items())),
        "created_with": dict(sorted(manifest.created_with.items())),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _image_object(image: ImageInput) -> dict[str, object]:
    return {"name": image.name, "dtype": image.dtype, "shape": [_BATCH, *image.shape]}


def _class_input_object(each: ClassInput) -> dict[str, object]:
    return {
        "name": each.name,
        "dtype": _DTYPE,
        "slice_shape": list(each.slice_shape),
        "class_axis": each.class_axis,
    }


def _preprocessing_object(spec: Preprocessing) -> dict[str, object]:
    return {
        "mode": spec.mode,
        "resize": spec.resize,
        "interpolation": spec.interpolation,
        "crop_pct": float(spec.crop_pct),
        "crop_mode": spec.crop_mode,
        "mean": [float(value) for value in spec.mean],
        "std": [float(value) for value in spec.std],
    }


def _variant_object(variant: Variant) -> dict[str, object]:
    return {
        "file": variant.file,
        "precision": variant.precision,
        "capacity": variant.capacity,
        "batch": variant.batch,
        "opset": variant.opset,
    }


class _Object:
    """A JSON object that is read key by key, and may hold no other key in the end."""

    def __init__(self, value: dict[str, JsonValue], where: str) -> None:
        self._value = value
        self._where = where
        self._read: set[str] = set()

    def get(self, key: str) -> JsonValue:
        if key not in self._value:
            raise ManifestError(f"{self._where}{key} is missing")
        self._read.add(key)
        return self._value[key]

    def text(self, key: str) -> str:
        return self._typed(key, self.get(key), str)

    def integer(self, key: str) -> int:
        return self._typed(key, self.get(key), int)

    def integer_or_null(self, key: str) -> int | None:
        return None if self.get(key) is None else self.integer(key)

    def number(self, key: str) -> float:
        return self._number(key, self.get(key))

    def list_of(self, key: str, kind: type[_T]) -> list[_T]:
        return [self._typed(key, each, kind) for each in self._typed(key, self.get(key), list)]

    def numbers(self, key: str) -> list[float]:
        return [self._number(key, each) for each in self._typed(key, self.get(key), list)]

    def texts(self, key: str) -> dict[str, str]:
        found = self._typed(key, self.get(key), dict)
        return {name: self._typed(f"{key}.{name}", text, str) for name, text in found.items()}

    def child(self, key: str) -> "_Object":
        return _Object(self._typed(key, self.get(key), dict), f"{self._where}{key}.")

    def children(self, key: str, build: Callable[["_Object"], _T]) -> list[_T]:
        return [
            build(_Object(value, f"{self._where}{key}[{index}]."))
            for index, value in enumerate(self.list_of(key, dict))
        ]

    def constant(self, key: str, expected: str) -> None:
        if self.get(key) != expected:
            raise ManifestError(f"{self._where}{key} must be {expected!r}")

    def done(self, *others: str) -> None:
        for key in sorted(self._value.keys() - self._read - set(others)):
            raise ManifestError(f"{self._where}{key} is no key of {_FORMAT}")

    def _typed(self, key: str, value: object, kind: type[_T]) -> _T:
        # By exact type, because Python takes true for the integer 1.
        if type(value) is not kind:
            raise ManifestError(f"{self._where}{key} must be of type {_JSON_NAMES[kind]}")
        return value

    def _number(self, key: str, value: JsonValue) -> float:
        return float(value) if type(value) is int else self._typed(key, value, float)


_JSON_NAMES: dict[type, str] = {
    dict: "object",
    float: "number",
    int: "integer",
    list: "array",
    str: "string",
}


def _image(value: _Object) -> ImageInput:
    shape = value.get("shape")
    if not isinstance(shape, list) or shape[:1] != [_BATCH]:
        raise ManifestError(f'image.shape must begin with "{_BATCH}"')
    # Number and type of the sizes, and the word of the type, are for ImageInput to check.
    image = ImageInput(
        name=value.text("name"),
        shape=cast("tuple[int, int, int]", tuple(shape[1:])),
        dtype=cast("PixelType", value.text("dtype")),
    )
    value.done()
    return image


def _class_input(value: _Object) -> ClassInput:
    value.constant("dtype", _DTYPE)
    found = ClassInput(
        name=value.text("name"),
        slice_shape=tuple(value.list_of("slice_shape", int)),
        class_axis=value.integer("class_axis"),
    )
    value.done()
    return found


def _preprocessing(value: _Object) -> Preprocessing:
    # Whether the words are known ones is for Preprocessing to check.
    found = Preprocessing(
        mode=cast("Mode", value.text("mode")),
        resize=value.integer("resize"),
        interpolation=cast("Interpolation", value.text("interpolation")),
        crop_pct=value.number("crop_pct"),
        crop_mode=cast("CropMode", value.text("crop_mode")),
        mean=tuple(value.numbers("mean")),
        std=tuple(value.numbers("std")),
    )
    value.done()
    return found


def _variant(value: _Object) -> Variant:
    found = Variant(
        file=value.text("file"),
        precision=cast("Precision", value.text("precision")),
        capacity=value.integer_or_null("capacity"),
        batch=value.integer_or_null("batch"),
        opset=value.integer("opset"),
    )
    value.done()
    return found
