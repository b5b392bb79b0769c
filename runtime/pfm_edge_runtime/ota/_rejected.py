"""Bundles that this device has rejected: so that none is fetched at every poll, to no end.

Owns ``state/ota/rejected.json``. It holds hashes, for one package under one version of this
software and one set of trusted keys: when any of these changes, every bundle has another chance.
What may pass is tried a few times before it counts as rejected::

    rejected = Rejected(cache, files, device)
    if digest in rejected: …
    rejected.add(digest, may_pass=error.may_pass)       # how many tries are left
"""

import hashlib
from contextlib import suppress

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse,
)
from pfm_edge_runtime.errors import PfmEdgeError
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.package import PackageFiles
from pfm_edge_runtime.recording import software
from pfm_edge_runtime.state import DeviceState

__all__ = ["Rejected"]

_FILE = "rejected.json"
_MOST_BYTES = 2**20
_MOST_HASHES = 32  # of one package; the oldest go
_TRIES = 3  # of a bundle that failed in a way that may pass


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
        return self._failures(self._read()).get(digest, 0) >= _TRIES

    def add(self, digest: str, *, may_pass: bool) -> int:
        """Remember one more failure.

        Args:
            digest: Of the bundle.
            may_pass: Whether another try may end otherwise.

        Returns:
            How many tries are left. Where it cannot be remembered, the bundle is fetched once more.
        """
        found = self._read()
        failures = self._failures(found)
        count = failures.pop(digest, 0) + (1 if may_pass else _TRIES)
        newest = [*failures.items()][1 - _MOST_HASHES :]
        kept: list[JsonValue] = [[*each] for each in [*newest, (digest, count)]]
        found[self._model] = {"for": self._key, "failures": kept}
        with suppress(PfmEdgeError):
            self._cache.write(_FILE, canonical(found))
        return max(0, _TRIES - count)

    def _failures(self, found: dict[str, JsonValue]) -> dict[str, int]:
        """Return how often each bundle failed, the oldest first."""
        counts: dict[str, int] = {}
        match found.get(self._model):
            case {"for": self._key, "failures": list(rows)}:
                for row in rows:
                    match row:
                        case [str(digest), int(count)]:
                            counts[digest] = count
        return counts

    def _read(self) -> dict[str, JsonValue]:
        data = self._cache.read(_FILE, _MOST_BYTES)
        if data is None:
            return {}
        try:
            found = parse(data, JsonLimits(max_bytes=_MOST_BYTES), floats=False)
        except StrictJsonError:
            return {}
        return found if isinstance(found, dict) else {}
