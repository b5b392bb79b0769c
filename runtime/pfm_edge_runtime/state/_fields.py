"""The fields of a ledger's record: typed on the way in, checked when a record is made.

Owns the step from JSON values to a record's arguments; a complaint names the field, never its
value, which might be what somebody wanted forgotten::

    fields = Fields({"epoch": 1})
    fields.integer("epoch")
    fields.finish()                  # no other field was there
"""

import re
from typing import cast

from pfm_edge_runtime._strict_json import JsonValue
from pfm_edge_runtime.digest import HEX64
from pfm_edge_runtime.errors import KeyFileError, StateError
from pfm_edge_runtime.keys import PublicKey, public_from_bytes
from pfm_edge_runtime.state._clock import ClockStatus, Moment

__all__ = [
    "HEX32",
    "Fields",
    "moment_fields",
    "moment_from",
    "public_key_from",
    "require",
    "require_hex",
]

HEX32 = re.compile(r"[0-9a-f]{32}")


def require(condition: bool, field: str) -> None:
    """Require that a field holds what it must.

    Raises:
        StateError: It does not.
    """
    if not condition:
        raise StateError(f"field {field} is malformed")


def require_hex(text: str, field: str) -> None:
    """Require that a field holds 64 lower-case hexadecimal digits.

    Raises:
        StateError: It does not.
    """
    require(HEX64.fullmatch(text) is not None, field)


class Fields:
    """The fields of one JSON object, each to be taken once.

    Raises:
        StateError: From every method: the field is missing, or of another type.
    """

    __slots__ = ("_left",)

    def __init__(self, value: JsonValue) -> None:
        if not isinstance(value, dict):
            raise StateError("a record's fields are no JSON object")
        self._left = dict(value)

    def text(self, name: str) -> str:
        """Take a string."""
        value = self._take(name)
        if not isinstance(value, str):
            raise StateError(f"field {name} is no text")
        return value

    def text_or_null(self, name: str) -> str | None:
        """Take a string or null."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return None
        return self.text(name)

    def integer(self, name: str) -> int:
        """Take an integer."""
        value = self._take(name)
        if type(value) is not int:  # by exact type: Python takes true for 1
            raise StateError(f"field {name} is no integer")
        return value

    def boolean(self, name: str) -> bool:
        """Take true or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise StateError(f"field {name} is neither true nor false")
        return value

    def boolean_or_null(self, name: str) -> bool | None:
        """Take true, false or null."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return None
        return self.boolean(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """Take an array of strings."""
        found = []
        for each in self._array(name):
            if not isinstance(each, str):
                raise StateError(f"field {name} holds something else than texts")
            found.append(each)
        return tuple(found)

    def objects(self, name: str) -> tuple["Fields", ...]:
        """Take an array of objects."""
        return tuple(Fields(each) for each in self._array(name))

    def object(self, name: str) -> "Fields":
        """Take an object."""
        return Fields(self._take(name))

    def object_or_null(self, name: str) -> "Fields | None":
        """Take an object or null."""
        value = self._take(name)
        return None if value is None else Fields(value)

    def finish(self) -> None:
        """Require that every field was taken."""
        for name in sorted(self._left):
            raise StateError(f"field {name} is unknown")

    def _array(self, name: str) -> list[JsonValue]:
        value = self._take(name)
        if not isinstance(value, list):
            raise StateError(f"field {name} is no array")
        return value

    def _take(self, name: str) -> JsonValue:
        if name not in self._left:
            raise StateError(f"field {name} is missing")
        return self._left.pop(name)


def moment_from(fields: Fields) -> Moment:
    """Take the two fields of a moment.

    Raises:
        StateError: They are none.
    """
    return Moment(fields.text("time"), cast("ClockStatus", fields.text("clock")))


def moment_fields(moment: Moment) -> dict[str, JsonValue]:
    """Return the two fields of a moment."""
    return {"time": moment.time, "clock": moment.clock}


def public_key_from(text: str) -> PublicKey:
    """Read a public key from its hexadecimal digits.

    Raises:
        StateError: It is none.
    """
    require_hex(text, "signers")
    try:
        return public_from_bytes(bytes.fromhex(text))
    except KeyFileError as error:
        raise StateError(f"field signers: {error}") from error
