"""The container: a strict subset of safetensors in which equal content means equal bytes.

Owns the mapping between bytes and named float32 arrays with text metadata. Whatever this module
accepts, the safetensors library reads too; the reverse does not hold, on purpose::

    data = write_tensors({"image": np.zeros((2, 3), np.float32)}, {"purpose": "example"})
    tensors, metadata = read_tensors(data)

The format, beyond safetensors' own rules:

* 8 bytes, little-endian: the length N of the header, a multiple of 8. Then N bytes of header: a
  canonical JSON object (``pfm_edge_runtime._strict_json``) and the least number of spaces that
  pads it. Then the data, to the end of the file.
* ``__metadata__`` is always there; keys and tensor names are ``[a-z][a-z0-9_.-]*``, so it comes
  first in the canonical order of keys.
* Every tensor is F32, little-endian, row-major. In ascending order of their names they fill the
  data from its first byte to its last: no hole, no overlap, no other order.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse_canonical,
)
from pfm_edge_runtime.bundle._limits import DEFAULT_LIMITS, BundleLimits
from pfm_edge_runtime.errors import BundleFormatError

__all__ = [
    "Buffer",
    "FloatArray",
    "as_bytes",
    "check_lengths",
    "new_buffer",
    "read_tensors",
    "valid_name",
    "view_tensors",
    "write_tensors",
]

FloatArray: TypeAlias = NDArray[np.float32]
Buffer: TypeAlias = bytes | bytearray | memoryview

_LENGTH_BYTES = 8
_ALIGNMENT = 8  # so that the data of a mapped file is aligned for every float type
_ITEM_BYTES = 4
_STORED = np.dtype("<f4")
_MAX_NAME = 128
_VALUES_PER_TENSOR = 32  # 7 strings, 8 axes, 2 offsets; the rest is for metadata
_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_METADATA = "__metadata__"


def valid_name(name: str) -> bool:
    """Tell whether ``name`` may name a tensor or a metadata key."""
    return len(name) <= _MAX_NAME and _NAME.fullmatch(name) is not None


def read_tensors(
    data: bytes, *, limits: BundleLimits = DEFAULT_LIMITS
) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Read a tensor file: its float32 arrays by name, and its metadata.

    The arrays are private, read-only copies: nothing of ``data`` is kept.

    Raises:
        BundleFormatError: The bytes break the format (module docstring) or a limit.
    """
    tensors, metadata = view_tensors(data, limits=limits)
    copies = {name: tensor.copy() for name, tensor in tensors.items()}
    for tensor in copies.values():
        tensor.flags.writeable = False
    return copies, metadata


def view_tensors(
    data: Buffer, *, limits: BundleLimits = DEFAULT_LIMITS
) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Do what :func:`read_tensors` does without a copy: the arrays are read-only views of ``data``.

    Whoever may still write to ``data`` changes them.

    Raises:
        BundleFormatError: The bytes break the format (module docstring) or a limit.
    """
    header, begin = _read_header(data, limits)
    metadata = _checked_metadata(header.pop(_METADATA, None))
    if len(header) > limits.max_tensors:
        raise _bad(f"has more than {limits.max_tensors} tensors")
    shapes = _checked_layout(header, len(data) - begin, limits)
    tensors: dict[str, FloatArray] = {}
    for name, shape in shapes.items():
        count = prod(shape)
        stored = np.frombuffer(data, dtype=_STORED, count=count, offset=begin)
        # A copy only where the machine's own byte order is another.
        tensors[name] = stored.reshape(shape).astype(np.float32, copy=False)
        tensors[name].flags.writeable = False
        begin += count * _ITEM_BYTES
    return tensors, metadata


def as_bytes(tensor: FloatArray) -> memoryview:
    """Return the bytes of a tensor as a file has them: row-major, little-endian."""
    return np.ascontiguousarray(tensor, dtype=_STORED).reshape(-1).view(np.uint8).data


def new_buffer(size: int) -> memoryview:
    """Return writable memory of ``size`` bytes, with whatever was there before.

    A ``bytearray`` would be filled with zeros first, which takes as long as reading the file.
    """
    return np.empty(size, np.uint8).data


def check_lengths(data: Buffer, limits: BundleLimits) -> int:
    """Return the length of the header, in bytes, if it and the file are within the limits.

    Raises:
        BundleFormatError: One of them is not, or there is no length to read.
    """
    if len(data) > limits.max_file_bytes:
        raise _bad(f"is larger than {limits.max_file_bytes} bytes")
    if len(data) < _LENGTH_BYTES:
        raise _bad(f"is cut short: it has {len(data)} bytes")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > limits.max_header_bytes:
        raise _bad(f"declares a header beyond {limits.max_header_bytes} bytes")
    return length


def write_tensors(tensors: Mapping[str, FloatArray], metadata: Mapping[str, str]) -> bytes:
    """Write float32 arrays and text as one tensor file; equal content gives equal bytes.

    Args:
        tensors: The arrays by name, of any shape; float32 only.
        metadata: Text by key.

    Raises:
        BundleFormatError: A name, a dtype or a text cannot be stored.
    """
    header: dict[str, JsonValue] = {_METADATA: dict(metadata)}
    chunks: list[memoryview] = []
    offset = 0
    for name in sorted(tensors):
        array = tensors[name]
        if array.dtype != np.float32:
            raise _bad(f"cannot hold {name!r}: it is {array.dtype}, not float32")
        end = offset + array.size * _ITEM_BYTES
        header[name] = _declaration(array.shape, offset, end)
        chunks.append(as_bytes(array))
        offset = end
    for name in [*tensors, *metadata]:
        _require_name(name)
    return b"".join([_write_header(header), *chunks])


def _bad(finding: str) -> BundleFormatError:
    return BundleFormatError(f"the tensor file {finding}")


def _declaration(shape: tuple[int, ...], begin: int, end: int) -> dict[str, JsonValue]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def _write_header(header: Mapping[str, JsonValue]) -> bytes:
    try:
        text = canonical(dict(header))
    except StrictJsonError as error:
        raise _bad(f"cannot be written: its header {error}") from error
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _read_header(data: Buffer, limits: BundleLimits) -> tuple[dict[str, JsonValue], int]:
    """Return the header and where the data begins, having checked lengths before parsing."""
    length = check_lengths(data, limits)
    begin = _LENGTH_BYTES + length
    if begin > len(data):
        raise _bad(f"is cut short inside its header of {length} bytes")
    json_limits = JsonLimits(
        max_bytes=length,
        max_depth=3,
        max_containers=2 + 3 * (limits.max_tensors + 1),
        max_values=_VALUES_PER_TENSOR * (limits.max_tensors + 1),
    )
    text = bytes(memoryview(data)[_LENGTH_BYTES:begin]).rstrip(b" ")
    try:
        header = parse_canonical(text, json_limits)
    except StrictJsonError as error:
        raise _bad(f"has a bad header: it {error}") from error
    if not isinstance(header, dict):
        raise _bad("has a bad header: it is no JSON object")
    if length != len(text) + -len(text) % _ALIGNMENT:
        raise _bad("has a bad header: its padding is not canonical")
    return header, begin


def _checked_metadata(value: JsonValue) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _bad(f"has no {_METADATA} object")
    for key, text in value.items():
        _require_name(key)
        if not isinstance(text, str):
            raise _bad(f"has a metadata value that is no text: {key!r}")
    return cast("dict[str, str]", value)


def _checked_layout(
    header: Mapping[str, JsonValue], data_bytes: int, limits: BundleLimits
) -> dict[str, tuple[int, ...]]:
    """Return the shapes by name, in order, once they are known to tile the data exactly."""
    shapes: dict[str, tuple[int, ...]] = {}
    offset = 0
    for name, declared in header.items():
        _require_name(name)
        shapes[name] = shape = _checked_shape(name, declared, limits)
        end = offset + prod(shape) * _ITEM_BYTES
        # Compared as text, because Python takes false for 0.
        if canonical(declared) != canonical(_declaration(shape, offset, end)):
            raise _bad(
                f"declares tensor {name!r} wrongly: F32 of shape {list(shape)} "
                f"must span bytes {offset} to {end} and say nothing else"
            )
        offset = end
    if offset != data_bytes:
        raise _bad(f"has {data_bytes} bytes of data, its tensors need {offset}")
    return shapes


def _checked_shape(name: str, declared: JsonValue, limits: BundleLimits) -> tuple[int, ...]:
    shape = declared.get("shape") if isinstance(declared, dict) else None
    if not isinstance(shape, list) or len(shape) > limits.max_rank:
        raise _bad(f"declares no usable shape for tensor {name!r}")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _bad(f"declares a shape of tensor {name!r} that is no list of sizes")
    sizes = tuple(cast("list[int]", shape))
    # Also for an empty tensor: NumPy refuses [0, 2**60] with an exception of its own.
    if prod(max(size, 1) for size in sizes) * _ITEM_BYTES > limits.max_file_bytes:
        raise _bad(f"declares tensor {name!r} larger than any file may be")
    return sizes


def _require_name(name: str) -> None:
    if not valid_name(name):
        shown = name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…"
        raise _bad(
            f"has the name {shown!r}: names are [a-z][a-z0-9_.-]*, up to {_MAX_NAME} characters"
        )
