"""The JSON texts inside a bundle: canonical, of a known depth, with exactly the known keys.

Owns the step from bytes to typed fields; every complaint names the text that it is about::

    fields = parse_object("payload", payload, limits, depth=4)
    require_keys("payload", fields, {"format", "epoch"})
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from pfm_edge_runtime._strict_json import JsonLimits, JsonValue, StrictJsonError, parse_canonical
from pfm_edge_runtime.bundle._limits import BundleLimits
from pfm_edge_runtime.errors import BundleFormatError

__all__ = [
    "JsonObject",
    "integer_field",
    "list_field",
    "parse_object",
    "parse_texts",
    "require_keys",
    "text_field",
]

JsonObject: TypeAlias = dict[str, JsonValue]

_SHOWN = 40  # characters of a key that is not ours, in an error


def parse_object(what: str, data: bytes, limits: BundleLimits, *, depth: int) -> JsonObject:
    """Parse a canonical JSON object.

    Raises:
        BundleFormatError: The bytes are none, or break a limit.
    """
    value = _parse(what, data, limits, depth)
    if not isinstance(value, dict):
        raise BundleFormatError(f"{what}: it is no JSON object")
    return value


def parse_texts(what: str, data: bytes, limits: BundleLimits) -> list[str]:
    """Parse a canonical JSON array of strings.

    Raises:
        BundleFormatError: The bytes are none, or break a limit.
    """
    value = _parse(what, data, limits, 1)
    if not isinstance(value, list):
        raise BundleFormatError(f"{what}: it is no JSON array")
    return [_text(what, each) for each in value]


def require_keys(what: str, fields: JsonObject, keys: set[str]) -> None:
    """Require exactly these keys.

    Raises:
        BundleFormatError: One is missing, or one is unknown.
    """
    for key in sorted(keys - fields.keys()):
        raise BundleFormatError(f"{what}: {key} is missing")
    for key in sorted(fields.keys() - keys):
        # Whoever made the text chose the key: it must not reach a terminal as it is.
        raise BundleFormatError(f"{what}: {key[:_SHOWN]!r} is no known key")


def text_field(what: str, fields: JsonObject, key: str, valid: Callable[[str], bool]) -> str:
    """Return a string that passes ``valid``.

    Raises:
        BundleFormatError: It is no string, or it does not pass.
    """
    text = _text(f"{what}: {key}", fields[key])
    if not valid(text):
        raise BundleFormatError(f"{what}: {key} is malformed")
    return text


def integer_field(what: str, fields: JsonObject, key: str, *, least: int) -> int:
    """Return an integer of at least ``least``.

    Raises:
        BundleFormatError: It is none.
    """
    value = fields[key]
    if type(value) is not int or value < least:  # by exact type: Python takes true for 1
        raise BundleFormatError(f"{what}: {key} must be an integer of at least {least}")
    return value


def list_field(what: str, fields: Mapping[str, JsonValue], key: str, most: int) -> list[JsonValue]:
    """Return an array of at most ``most`` values.

    Raises:
        BundleFormatError: It is none, or longer.
    """
    value = fields[key]
    if not isinstance(value, list) or len(value) > most:
        raise BundleFormatError(f"{what}: {key} must be an array of at most {most} values")
    return value


def _parse(what: str, data: bytes, limits: BundleLimits, depth: int) -> JsonValue:
    bounds = JsonLimits(
        max_bytes=limits.max_header_bytes,
        max_depth=depth,
        max_containers=3 + 2 * limits.max_tensors,
        max_values=2 * limits.max_classes + limits.max_manifests + 32 * limits.max_tensors,
    )
    try:
        return parse_canonical(data, bounds)
    except StrictJsonError as error:
        raise BundleFormatError(f"{what}: it {error}") from error


def _text(what: str, value: JsonValue) -> str:
    if not isinstance(value, str):
        raise BundleFormatError(f"{what}: not a string")
    return value
