"""JSON as a file format needs it: one meaning per text, and bounded work to find it.

Owns the parsing of every JSON text that pfm-edge reads from a package or a bundle. Python's
``json`` accepts duplicate keys, NaN and 1e999, builds integers of any length and recurses as deep
as the text says; a format that is signed and hashed can afford none of that.

The *canonical* form is that of RFC 8785 (JCS) for the values our files hold: UTF-8 without
insignificant white space, keys in ascending order, the shortest escapes, integers only::

    parse_canonical(b'{"a":1,"b":["x"]}', JsonLimits())   # {"a": 1, "b": ["x"]}
    parse_canonical(b'{"a": 1}', JsonLimits())            # StrictJsonError: not canonical
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

__all__ = ["JsonLimits", "JsonValue", "StrictJsonError", "canonical", "parse", "parse_canonical"]

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None

_MAX_INTEGER = 2**53 - 1  # what every JSON reader represents exactly (RFC 8259, section 6)
_MAX_INTEGER_DIGITS = len(str(_MAX_INTEGER))
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class StrictJsonError(ValueError):
    """A text breaks the strict rules; callers turn it into the exception of their format."""


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """What a text may cost before anything is allocated for it.

    Attributes:
        max_bytes: Length of the text, in bytes.
        max_depth: Arrays and objects inside one another.
        max_containers: Arrays and objects in all.
        max_values: Strings in all, keys included; and as many commas.
    """

    max_bytes: int = 2**20
    max_depth: int = 8
    max_containers: int = 10_000
    max_values: int = 100_000


def parse(data: bytes, limits: JsonLimits, *, floats: bool = True) -> JsonValue:
    """Parse one JSON text strictly.

    Args:
        data: The text, UTF-8.
        limits: What the text may cost.
        floats: Whether numbers may have a fraction or an exponent.

    Raises:
        StrictJsonError: The text is too long, too deep, no UTF-8 or no JSON, names a key twice,
            or holds a number or a character that has no exact counterpart.
    """
    value = _load(data, limits, floats=floats)
    canonical(value)  # an escaped lone surrogate parses, but is no text
    return value


def canonical(value: JsonValue) -> bytes:
    """Write ``value`` in its canonical form (module docstring).

    Raises:
        StrictJsonError: A string holds half of a surrogate pair.
    """
    try:
        return _CANONICAL.encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise StrictJsonError("holds half of a surrogate pair") from error


def parse_canonical(data: bytes, limits: JsonLimits) -> JsonValue:
    """Parse a JSON text that must be in its canonical form: one value, one spelling.

    Raises:
        StrictJsonError: As :func:`parse`, or another spelling of the same value was found.
    """
    value = _load(data, limits, floats=False)
    if canonical(value) != data:
        raise StrictJsonError("is not in canonical form (white space, key order or escapes)")
    return value


def _load(data: bytes, limits: JsonLimits, *, floats: bool) -> JsonValue:
    if len(data) > limits.max_bytes:
        raise StrictJsonError(f"is longer than {limits.max_bytes} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"is no UTF-8 at byte {error.start}") from error
    _check_work(data, limits)
    try:
        value: JsonValue = (_WITH_FLOATS if floats else _INTEGERS_ONLY).decode(text)
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"is no JSON: {error.msg} at character {error.pos}") from error
    return value


def _check_work(data: bytes, limits: JsonLimits) -> None:
    """Bound depth and number of parts, in linear time and before the parser allocates for them.

    Up to the first syntax error this sees the text as the parser does: pairs of backslashes and
    escaped quotes go, then every other piece between quotes is a string. Behind it the parser
    never comes.
    """
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * limits.max_values:
        raise StrictJsonError(f"has more than {limits.max_values} strings")
    outside = b"".join(bare.split(b'"')[::2])
    if outside.count(b",") > limits.max_values:
        raise StrictJsonError(f"has more than {limits.max_values} values")
    brackets = outside.translate(None, delete=_NO_BRACKETS)
    if len(brackets) > 2 * limits.max_containers:
        raise StrictJsonError(f"has more than {limits.max_containers} arrays and objects")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > limits.max_depth:
            raise StrictJsonError(f"is nested deeper than {limits.max_depth} levels")


def _unique_keys(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StrictJsonError("names a key twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_INTEGER_DIGITS or abs(int(text)) > _MAX_INTEGER:
        raise StrictJsonError(f"holds an integer beyond {_MAX_INTEGER}")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise StrictJsonError("holds a number that is too large")
    return number


def _no_float(text: str) -> NoReturn:  # noqa: ARG001 (the hook's signature)
    raise StrictJsonError("holds a number with a fraction or an exponent")


def _no_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"holds {name}, which is no JSON")


def _decoder(parse_float: Callable[[str], float]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique_keys,
        parse_int=_integer,
        parse_float=parse_float,
        parse_constant=_no_constant,
    )


# Made once: a bundle of 1,000 classes parses 1,000 texts.
_WITH_FLOATS = _decoder(_finite)
_INTEGERS_ONLY = _decoder(_no_float)
_CANONICAL = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)
