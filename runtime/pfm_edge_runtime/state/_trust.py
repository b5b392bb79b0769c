"""Whom a managed device trusts: the file ``trust/keys.json`` of its state.

Owns that file's format, in both directions. It belongs to the device: no package brings one::

    {"bundles":{"keys":["<64 hex>"],"threshold":1},"format":"pfm-trust/1"}
"""

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse,
)
from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import ConfigError, StateError
from pfm_edge_runtime.state._fields import Fields, public_key_from

__all__ = ["trust_from_bytes", "trust_to_bytes"]

_FORMAT = "pfm-trust/1"


def trust_from_bytes(data: bytes) -> TrustedKeys:
    """Read the file.

    Raises:
        StateError: It breaks the format, or trusts nobody.
    """
    try:
        fields = Fields(parse(data, JsonLimits(), floats=False))
        if fields.text("format") != _FORMAT:
            raise StateError(f"its format is not {_FORMAT}")  # noqa: TRY301 (one fix for all)
        bundles = fields.object("bundles")
        fields.finish()
        keys = [public_key_from(each) for each in bundles.texts("keys")]
        found = TrustedKeys(bundles.integer("threshold"), frozenset(keys))
        bundles.finish()
    except (ConfigError, StateError, StrictJsonError) as error:
        raise StateError(
            f"it {error}" if isinstance(error, StrictJsonError) else str(error)
        ) from error
    if not keys or len(keys) != len(found.keys):
        raise StateError("it names no key, or one twice")
    return found


def trust_to_bytes(trust: TrustedKeys) -> bytes:
    """Write the file."""
    keys: list[JsonValue] = [each.hex() for each in sorted(trust.keys)]
    bundles: JsonValue = {"keys": keys, "threshold": trust.threshold}
    return canonical({"format": _FORMAT, "bundles": bundles}) + b"\n"
