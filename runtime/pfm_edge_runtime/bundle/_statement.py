"""The issuer's statement: what is signed.

Owns what the issuer says about a bundle: which model and manifests it serves, its place in time,
the shape of an entry, and a digest of every entry that was ever in it. What was stored is kept as
stored, because a signature covers those bytes::

    envelope = Envelope.parse(metadata["statement"], payload_type=PAYLOAD_TYPE)
    statement = Statement.parse(envelope.payload, limits)

The envelope is ``pfm_edge_runtime.dsse``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from itertools import pairwise
from typing import NamedTuple, NewType

from pfm_edge_runtime._strict_json import JsonValue, canonical
from pfm_edge_runtime.bundle._container import valid_name
from pfm_edge_runtime.bundle._json import (
    JsonObject,
    integer_field,
    list_field,
    parse_object,
    require_keys,
    text_field,
)
from pfm_edge_runtime.bundle._limits import BundleLimits
from pfm_edge_runtime.digest import HEX64, is_digest
from pfm_edge_runtime.errors import BundleFormatError
from pfm_edge_runtime.manifest import ModelId

__all__ = ["PAYLOAD_TYPE", "EntryDigest", "InputSpec", "Statement", "format_time"]

EntryDigest = NewType("EntryDigest", str)
"""Lower-case hexadecimal SHA-256 of the ASCII bytes of an entry string."""

_FORMAT = "pfm-bundle/1"
PAYLOAD_TYPE = "application/vnd.pfm-edge.bundle+json"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MAX_SIZE = 65_536  # of one axis of a slice, in elements: as in a manifest


class InputSpec(NamedTuple):
    """One class input as a bundle declares it.

    Attributes:
        name: Name of the tensor, and of the graph's input.
        slice_shape: Shape of what one class contributes.
    """

    name: str
    slice_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """What the issuer states about a bundle.

    Attributes:
        model_id: The trained model that the class tensors belong to.
        manifests: Digests of the ``manifest.json`` files it may serve, ascending, at least one.
        epoch: With ``sequence``, its place in time: the pair only grows. At least 1.
        sequence: As ``epoch``. At least 1.
        issued_at: When it was issued, RFC 3339 in UTC, to the second.
        inputs: The class inputs, in the order in which a row digest covers them.
        entry_digests: Digests of all entries it was issued with, ascending.
    """

    model_id: ModelId
    manifests: tuple[str, ...]
    epoch: int
    sequence: int
    issued_at: str
    inputs: tuple[InputSpec, ...]
    entry_digests: tuple[EntryDigest, ...]

    @classmethod
    def parse(cls, payload: bytes, limits: BundleLimits) -> "Statement":
        """Read a statement.

        Raises:
            BundleFormatError: It breaks the format or a limit.
        """
        found = parse_object("payload", payload, limits, depth=4)
        if found.get("format") != _FORMAT:
            raise BundleFormatError(f"payload: format must be {_FORMAT}")
        require_keys("payload", found, {"format", *(each.name for each in fields(cls))})
        manifests = _ascending(found, "manifests", is_digest, limits.max_manifests)
        if not manifests:
            raise BundleFormatError("payload: manifests must list at least one")
        digests = _ascending(found, "entry_digests", _is_hex, limits.max_classes)
        return cls(
            model_id=ModelId(text_field("payload", found, "model_id", is_digest)),
            manifests=manifests,
            epoch=integer_field("payload", found, "epoch", least=1),
            sequence=integer_field("payload", found, "sequence", least=1),
            issued_at=text_field("payload", found, "issued_at", _is_time),
            inputs=_inputs(found, limits),
            entry_digests=tuple(EntryDigest(each) for each in digests),
        )

    def to_payload(self) -> bytes:
        """Write a new statement in canonical JSON; a stored one is never written again."""
        return canonical(
            {
                "format": _FORMAT,
                "model_id": self.model_id,
                "manifests": list(self.manifests),
                "epoch": self.epoch,
                "sequence": self.sequence,
                "issued_at": self.issued_at,
                "inputs": [
                    {"name": each.name, "slice_shape": list(each.slice_shape)}
                    for each in self.inputs
                ],
                "entry_digests": list(self.entry_digests),
            }
        )


def format_time(moment: datetime) -> str:
    """Write a moment as statements do.

    Raises:
        BundleFormatError: ``moment`` has no time zone.
    """
    if moment.utcoffset() is None:
        raise BundleFormatError("issued_at needs a time zone: datetime.now(timezone.utc)")
    return moment.astimezone(timezone.utc).strftime(_TIME_FORMAT)


def _is_time(text: str) -> bool:
    if _TIME.fullmatch(text) is None:
        return False
    try:
        datetime.strptime(text, _TIME_FORMAT)  # only asked whether it exists
    except ValueError:
        return False
    return True


def _is_hex(text: str) -> bool:
    return HEX64.fullmatch(text) is not None


def _ascending(
    found: JsonObject, key: str, valid: Callable[[str], bool], most: int
) -> tuple[str, ...]:
    texts = list_field("payload", found, key, most)
    for each in texts:
        if not isinstance(each, str) or not valid(each):
            raise BundleFormatError(f"payload: {key} holds something else than digests")
    listed = tuple(str(each) for each in texts)
    if any(first >= second for first, second in pairwise(listed)):
        raise BundleFormatError(f"payload: {key} must ascend, with nothing twice")
    return listed


def _inputs(found: JsonObject, limits: BundleLimits) -> tuple[InputSpec, ...]:
    listed = list_field("payload", found, "inputs", limits.max_tensors)
    inputs = tuple(_input(each, limits) for each in listed)
    names = {each.name for each in inputs}
    if not names or len(names) != len(inputs):
        raise BundleFormatError("payload: inputs must name at least one tensor, and none twice")
    return inputs


def _input(value: JsonValue, limits: BundleLimits) -> InputSpec:
    if not isinstance(value, dict):
        raise BundleFormatError("payload: inputs must hold objects")
    require_keys("payload: inputs", value, {"name", "slice_shape"})
    name = text_field("payload: inputs", value, "name", valid_name)
    sizes: list[int] = []
    for size in list_field("payload: inputs", value, "slice_shape", limits.max_rank - 1):
        if type(size) is not int or not 1 <= size <= _MAX_SIZE:
            raise BundleFormatError(f"payload: slice_shape of {name} must hold sizes from 1 up")
        sizes.append(size)
    return InputSpec(name, tuple(sizes))
