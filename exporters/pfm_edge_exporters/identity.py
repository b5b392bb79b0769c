"""The name of a trained model: one digest over its weights and over what shaped its graph.

Owns the byte layout below, and nothing else::

    model_id = compute_model_id(
        {"blocks.0.norm1.weight": weight, "pos_embed": lambda: load("pos_embed")},
        {"architecture": "vit_small_patch14_dinov2", "attention": "prefix"},
    )
    # "sha256:4f0c…"
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pfm_edge_exporters.errors import ExportError
from pfm_edge_runtime.manifest import ModelId

__all__ = ["AnyArray", "JsonValue", "TensorProvider", "compute_model_id"]

AnyArray: TypeAlias = NDArray[np.generic]
TensorProvider: TypeAlias = AnyArray | Callable[[], AnyArray]
JsonValue: TypeAlias = (
    bool | int | float | str | list["JsonValue"] | Mapping[str, "JsonValue"] | None
)

_DOMAIN = b"pfm-model-id/1\n"
_DTYPES = frozenset(
    [
        "bool",
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
        *(f"float{bits}" for bits in (16, 32, 64)),
    ]
)


def compute_model_id(
    tensors: Mapping[str, TensorProvider], configuration: Mapping[str, JsonValue]
) -> ModelId:
    r"""Name a model by its tensors and by the configuration that shaped its graph.

    The digest is SHA-256 over these bytes, where ``u64`` is an unsigned 64-bit little-endian
    integer and ``text`` is a ``u64`` count of bytes followed by that many bytes of UTF-8::

        "pfm-model-id/1\n"
        u64     number of tensors
        for each tensor, in ascending order of its name's code points:
            text    name
            text    dtype, as NumPy names it: "float32"
            u64     number of axes
            u64     size, for each axis
            u64     number of bytes of data
            ...     data: row-major, little-endian
        text    configuration

    Every part has a length before it, so no two models share these bytes. ``configuration`` is
    written as JSON with keys in ascending order of code points, no white space between tokens, no
    escape that is not needed and numbers as Python writes them: ``1`` and ``1.0`` differ.

    Args:
        tensors: By name, an array or a function that returns one; a function is called once, when
            its turn comes, so that not all arrays need to be in memory together.
        configuration: JSON values alone; finite numbers; no floats that a machine computed.

    Raises:
        ExportError: A tensor's type has no fixed spelling, or the configuration is no JSON.
    """
    digest = hashlib.sha256(_DOMAIN + _u64(len(tensors)))
    for name in sorted(tensors):
        provider = tensors[name]
        array = provider() if callable(provider) else provider
        _require_spelling(name, array)
        digest.update(_text(name) + _text(array.dtype.name) + _u64(array.ndim))
        digest.update(b"".join(map(_u64, array.shape)) + _u64(array.nbytes))
        # A copy only where the array is not laid out like that already.
        stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(stored.reshape(-1).view(np.uint8).data)
    digest.update(_text(_canonical_json(configuration)))
    return ModelId(f"sha256:{digest.hexdigest()}")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _text(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise ExportError(f"a model cannot be named after {value!r:.200}: no UTF-8") from error
    return _u64(len(data)) + data


def _require_spelling(name: str, array: AnyArray) -> None:
    if array.dtype.name not in _DTYPES:
        raise ExportError(
            f"tensor {name!r} is {array.dtype}: convert it to a NumPy number type before the "
            "model is named"
        )


def _canonical_json(configuration: Mapping[str, JsonValue]) -> str:
    _require_json("configuration", configuration)
    try:
        return json.dumps(
            configuration,
            allow_nan=False,
            default=dict,  # another Mapping than dict
            ensure_ascii=False,
            separators=(",", ":"),
            sort_keys=True,
        )
    except ValueError as error:
        raise ExportError(f"the model's configuration is no JSON: {error}") from error


def _require_json(where: str, value: object) -> None:
    """Refuse what ``json`` would silently turn into something else: tuples, other keys."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ExportError(f"{where} has the key {key!r}, which is no text")
            _require_json(f"{where}.{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_json(f"{where}[{index}]", item)
    elif not isinstance(value, bool | int | float | str | None):
        raise ExportError(f"{where} is a {type(value).__name__}, which is no JSON value")
