"""Whom a managed device trusts: the file ``trust/keys.json`` of its state.

Owns that file's format, in both directions. It belongs to the device: no package brings one::

    {"bundles":{"keys":["<64 hex>"],"threshold":1},"format":"pfm-trust/1"}

Keys that a person set hold for what is installed, too. Where they came with a repository there is
one more key, ``"keep_installed":true``: until the first bundle under new keys is there, the device
goes on with the bundle that it verified under the old ones.
"""

from dataclasses import dataclass

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

__all__ = ["ManagedTrust", "trust_from_bytes", "trust_to_bytes"]

_FORMAT = "pfm-trust/1"
_KEEP = "keep_installed"


@dataclass(frozen=True, slots=True)
class ManagedTrust:
    """Whom a device was told to trust.

    Attributes:
        bundles: Whose signatures on bundles count.
        keep_installed: Whether the bundle that was installed last for a model stays in use though
            others signed it.
    """

    bundles: TrustedKeys
    keep_installed: bool = False


def trust_from_bytes(data: bytes) -> ManagedTrust:
    """Read the file.

    Raises:
        StateError: It breaks the format, or trusts nobody.
    """
    try:
        value = parse(data, JsonLimits(), floats=False)
        fields = Fields(value)
        if fields.text("format") != _FORMAT:
            raise StateError(f"its format is not {_FORMAT}")  # noqa: TRY301 (one fix for all)
        bundles = fields.object("bundles")
        may_keep = isinstance(value, dict) and _KEEP in value
        keep_installed = may_keep and fields.boolean(_KEEP)
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
    return ManagedTrust(found, keep_installed)


def trust_to_bytes(trust: ManagedTrust) -> bytes:
    """Write the file."""
    keys: list[JsonValue] = [each.hex() for each in sorted(trust.bundles.keys)]
    value: dict[str, JsonValue] = {
        "format": _FORMAT,
        "bundles": {"keys": keys, "threshold": trust.bundles.threshold},
    }
    if trust.keep_installed:
        value[_KEEP] = True
    return canonical(value) + b"\n"
