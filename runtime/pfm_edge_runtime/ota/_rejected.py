"""Bundles that this device has rejected: so that none is fetched at every poll, to no end.

Owns ``state/ota/rejected.json``. It holds hashes, for one package under one version of this
software and one set of trusted keys: when any of these changes, every bundle has another chance::

    rejected = Rejected(cache, files, device)
    if digest in rejected: …
    rejected.add(digest)
"""

import hashlib

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse,
)
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.recording import software
from pfm_edge_runtime.state import DeviceState

__all__ = ["Rejected"]

_FILE = "rejected.json"
_MOST_BYTES = 2**20
_MOST_HASHES = 32  # of one package; the oldest go


class Rejected:
    """The hashes of one package's rejected bundles.

    Args:
        cache: The directory of the device's updates.
        files: The package.
        device: The device's memory, with whom it trusts.
    """

    def __init__(self, cache: Cache, files: PackageFiles, device: DeviceState) -> None:
        self._cache = cache
        trust = device.trust
        keys: list[JsonValue] = [] if trust is None else [each.hex() for each in sorted(trust.keys)]
        given: list[JsonValue] = [
            files.manifest_digest,
            software(),
            keys,
            0 if trust is None else trust.threshold,
        ]
        self._key = hashlib.sha256(canonical(given)).hexdigest()
        self._model = files.manifest.model_id

    def __contains__(self, digest: str) -> bool:
        return digest in self._hashes(self._read())

    def add(self, digest: str) -> None:
        """Remember one more.

        Raises:
            StorageError: The disk refused.
        """
        found = self._read()
        hashes = [each for each in self._hashes(found) if each != digest]
        kept: list[JsonValue] = [*hashes[1 - _MOST_HASHES :], digest]
        found[self._model] = {"for": self._key, "hashes": kept}
        self._cache.write(_FILE, canonical(found))

    def _hashes(self, found: dict[str, JsonValue]) -> list[str]:
        match found.get(self._model):
            case {"for": self._key, "hashes": list(hashes)}:
                return [each for each in hashes if isinstance(each, str)]
        return []

    def _read(self) -> dict[str, JsonValue]:
        data = self._cache.read(_FILE, _MOST_BYTES)
        if data is None:
            return {}
        try:
            found = parse(data, JsonLimits(max_bytes=_MOST_BYTES), floats=False)
        except StrictJsonError:
            return {}
        return found if isinstance(found, dict) else {}
