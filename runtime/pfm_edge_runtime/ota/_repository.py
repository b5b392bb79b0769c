"""A repository's metadata, verified: The Update Framework, and what it leaves to its user.

Owns the one place that knows ``tuf``. Its client verifies signatures, versions and expiry; here is
what it does not do: floors that outlive a wiped cache, a time that no local clock can set back, one
key counted once, and files that are on the disk when it is said so::

    with Repository.open(transport, known, cache, local=now) as repository:
        repository.refresh()
        repository.read("forget.json", most=2**25)        # verified, from memory or the network
        repository.known                                  # what to remember from now on

What was verified is put into the cache afterwards, durably. The trusted root comes from the
device's memory, never from the cache.

Client workflow: https://theupdateframework.github.io/specification/latest/
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import FetchError, RepositoryError
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.ota._client import MOST_METADATA_BYTES, Client, require_tuf, temporary_folder
from pfm_edge_runtime.ota._findings import StaleError, explained, old_copy
from pfm_edge_runtime.ota._keys import require_distinct_keys, role_digest, trusted_keys
from pfm_edge_runtime.ota._transport import Transport
from pfm_edge_runtime.ota.names import FORGET_FILE, METADATA_FOLDER, TARGETS_FOLDER
from pfm_edge_runtime.state import RepositoryTrust, RoleFloor

if TYPE_CHECKING:
    from tuf.api.metadata import Delegations, Root, Signed, TargetFile

__all__ = ["BUNDLES", "EPOCH_BEGIN", "FORGET", "Repository", "format_time", "parse_time"]

BUNDLES, FORGET = "bundles", "forget"
"""The two delegations of a repository, by their names."""

EPOCH_BEGIN = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""A time at which nothing has expired."""

_TOP_ROLES = ("timestamp", "snapshot", "targets")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class Repository:
    """A repository while one update lasts; made by :meth:`open`.

    Attributes:
        name: The repository, as messages name it.
        known: What the device shall remember of it; grows with what is verified.
        reference: The time that expiry is judged by.
        repeats: Whether a version came with other bytes than those that were cached.
    """

    def __init__(
        self, transport: Transport, known: RepositoryTrust, cache: Cache, local: datetime
    ) -> None:
        self.known = known
        self._local = local
        self.reference = local
        if transport.is_fresh and known.time is not None:
            self.reference = max(local, parse_time(known.time))
        self.name = transport.name
        self._transport = transport
        self._cache = cache
        self.repeats = False
        self._folder: Path
        self._client: Client
        self._cached: dict[str, bytes] = {}

    @classmethod
    @contextmanager
    def open(
        cls, transport: Transport, known: RepositoryTrust, cache: Cache, *, local: datetime
    ) -> "Iterator[Repository]":
        """Begin; nothing is fetched yet.

        Args:
            transport: What reads its files.
            known: What the device knows of it.
            cache: Where verified metadata is kept.
            local: What the local clock says; the epoch's begin where age does not matter.

        Raises:
            RepositoryError: The root that the device knows is none.
            StorageError: There is no room for what is temporary.
            UpdateError: The extra ``ota`` is not installed.
        """
        made = cls(transport, known, cache, local)
        with temporary_folder() as folder:
            made._begin(folder)
            yield made

    def refresh(self) -> None:
        """Bring root, timestamp, snapshot and targets up to date, and verify them.

        Raises:
            RepositoryError: One of them cannot be trusted.
            FetchError: One of them cannot be had.
        """
        try:
            with self._explained():
                self._refresh()
        except StaleError:
            self._require_same_root()
            raise
        root = self._roots()
        delegations = self._delegations()
        require_distinct_keys(delegations.keys, "targets")
        floors = dict(self.known.floors)
        for role in _TOP_ROLES:
            floors[role] = self._above(role, role_digest(root, role))
        for role in (BUNDLES, FORGET):
            self._require_listed(role)
        self.known = replace(
            self.known,
            root=self._root_bytes(root.version),
            forget=trusted_keys(delegations, FORGET),
            floors=floors,
        )

    @property
    def version(self) -> int:
        """Version of the root: the epoch."""
        return self._root().version

    @property
    def bundle_keys(self) -> TrustedKeys:
        """Whose signatures on bundles count."""
        return trusted_keys(self._delegations(), BUNDLES)

    def find(self, target: str) -> "TargetFile | None":
        """Look a target up; its delegation is fetched if it is not here, and verified.

        Raises:
            RepositoryError: The delegation cannot be trusted, or states no SHA-256.
            FetchError: The delegation cannot be had.
        """
        with self._explained():
            found = self._client.find(target)
        role = FORGET if target == FORGET_FILE else BUNDLES
        if role in self._trusted():
            floor = self._above(role, role_digest(self._delegations(), role))
            self.known = replace(self.known, floors={**self.known.floors, role: floor})
        if found is not None and "sha256" not in found.hashes:
            raise RepositoryError(f"{self.name}: {target} has no SHA-256 in its metadata")
        return found

    def read(self, found: "TargetFile", *, most: int) -> bytes:
        """Fetch a target into memory, and verify it.

        Raises:
            RepositoryError: It is not the file that the metadata lists, or too long.
            FetchError: It cannot be had.
        """
        if found.length > most:
            raise RepositoryError(
                f"{self.name}: {found.path} has {found.length} bytes, more than {most}"
            )
        folder, _, name = found.path.rpartition("/")
        hashed = f"{found.hashes['sha256']}.{name}"
        path = "/".join(part for part in (TARGETS_FOLDER, folder, hashed) if part)
        self._transport.meter.require(found.length)
        data = self._transport.read(path, most=found.length)
        with self._explained():
            found.verify_length_and_hashes(data)
        return data

    def keep(self) -> None:
        """Put what was verified into the cache, as far as it is new."""
        for path in sorted(self._folder.glob("*.json")):
            role = path.stem
            if role == "root" or role not in self._trusted():
                continue
            data = path.read_bytes()
            if self._cached.get(role) != data:
                self._cache.keep(f"{METADATA_FOLDER}/{path.name}", data)
                self._cached[role] = data

    def after(self, issued_at: str) -> None:
        """Take note of a time that has passed, for what verified says it was issued then.

        It is capped at the moment before the timestamp expires: a time that somebody made up far
        ahead must not make a device refuse what its repository says today.
        """
        expires = self._signed("timestamp").expires - timedelta(seconds=1)
        time = max(self.known.time or "", min(issued_at, format_time(expires)))
        self.known = replace(self.known, time=time)

    def require_fresh(self) -> None:
        """Require that nothing has expired at a time that is known to have passed.

        Raises:
            RepositoryError: Something has.
        """
        if not self._transport.is_fresh or self.known.time is None:
            return
        self.reference = max(self.reference, parse_time(self.known.time))
        self._client.judge_by(self.reference)  # what is still to come
        for role in self._trusted():
            if self._signed(role).is_expired(self.reference):
                raise self._expired(f"{role}.json is expired")

    def _refresh(self) -> None:
        """Refresh; once more without the time floor if that rests on a key that is gone.

        Whoever has stolen the keys of timestamp and bundles can make a device believe in a time
        far ahead, and so can a publisher whose clock is wrong; a new timestamp key ends that.
        """
        from tuf.api.exceptions import ExpiredMetadataError

        try:
            self.repeats = self._client.refresh()
        except ExpiredMetadataError:
            floor = self.known.floors.get("timestamp")
            same = floor is None or floor.keys == role_digest(self._root(), "timestamp")
            if same or self.reference == self._local:
                raise
            self.known = replace(self.known, time=None)
            self.reference = self._local
            self._client.judge_by(self.reference)
            self.repeats = self._client.refresh()

    def _require_same_root(self) -> None:
        """Require that the repository has the root that this device trusts, if it has one.

        Where a cache holds back a newer root it has; another publisher's repository has another.

        Raises:
            RepositoryError: It is another's.
        """
        version = self.version
        with suppress(FetchError):
            name = f"{METADATA_FOLDER}/{version}.root.json"
            found = self._transport.read(name, most=MOST_METADATA_BYTES, attempts=1)
            if found != self._root_bytes(version):
                raise RepositoryError(
                    f"{self.name}: its metadata cannot be trusted: its root {version} is not this "
                    "device's: it is another publisher's repository; name the right one, or trust "
                    "that one: pfm-device init --replace-trust --root root.json"
                )

    def _begin(self, folder: Path) -> None:
        require_tuf()
        for role in (*_TOP_ROLES, BUNDLES, FORGET):
            data = self._cache.read(f"{METADATA_FOLDER}/{role}.json", MOST_METADATA_BYTES)
            if data is not None:
                self._cached[role] = data
        self._folder = folder
        with self._explained():
            self._client = Client(folder, self._transport, self._cached, self.known.root)
        self._client.judge_by(self.reference)

    def _roots(self) -> "Root":
        """Return the newest root; every one on the way to it must list each key once."""
        from tuf.api.metadata import Metadata, Root

        newest = self._root()
        with self._explained():
            first = Metadata[Root].from_bytes(self.known.root).signed.version
            for version in range(first, newest.version + 1):
                found = Metadata[Root].from_bytes(self._root_bytes(version)).signed
                require_distinct_keys(found.keys, "root")
        if not newest.consistent_snapshot:
            raise RepositoryError(f"{self.name}: it has no consistent snapshots: publish it again")
        return newest

    def _root_bytes(self, version: int) -> bytes:
        with self._explained():
            return self._client.root(version)

    def _root(self) -> "Root":
        return self._client.trusted.root

    def _trusted(self) -> list[str]:
        """Return the roles whose metadata is here and verified."""
        found = self._client.trusted
        return [role for role in ("root", *_TOP_ROLES, BUNDLES, FORGET) if role in found]

    def _signed(self, role: str) -> "Signed":
        return self._client.trusted[role]

    def _delegations(self) -> "Delegations":
        found = self._client.trusted.targets.delegations
        if found is None:
            raise RepositoryError(
                f"{self.name}: it is no repository of pfm-edge ota init: it delegates nothing"
            )
        return found

    def _above(self, role: str, keys: str) -> RoleFloor:
        """Return a role's version as its new floor.

        Raises:
            RepositoryError: It is below the old one.
        """
        version = self._signed(role).version
        self._require_floor(role, keys, version)
        return RoleFloor(keys, version)

    def _require_listed(self, role: str) -> None:
        """Require that the snapshot has a delegation, in a version that is not below its floor."""
        meta = self._client.trusted.snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise RepositoryError(
                f"{self.name}: its snapshot does not list {role}.json: publish it again"
            )
        self._require_floor(role, role_digest(self._delegations(), role), meta.version)

    def _require_floor(self, role: str, keys: str, version: int) -> None:
        floor = self.known.floors.get(role)
        if floor is not None and floor.keys == keys and version < floor.version:
            found = (
                f"its {role}.json is version {version}, and this device has seen {floor.version}"
            )
            raise old_copy(self.name, found, online=self._transport.is_fresh)

    def _explained(self) -> AbstractContextManager[None]:
        """Turn what TUF's client raises into one line of ours."""
        return explained(self.name, online=self._transport.is_fresh, expired=self._expired)

    def _expired(self, finding: str) -> RepositoryError:
        way_out = "the publisher must run pfm-edge ota refresh"
        here = format_time(self.reference)
        if self.reference == self._local:
            return RepositoryError(
                f"{self.name}: {finding}, and here it is {here}: set this device's clock, or "
                f"{way_out}"
            )
        return RepositoryError(
            f"{self.name}: {finding}, and by what was signed it is {here} at least, though this "
            f"device's clock says {format_time(self._local)}: {way_out}; if that time is yet to "
            "come, a clock was wrong once, and the publisher must run pfm-edge ota rotate-key REPO "
            "timestamp --add NEW --remove OLDID"
        )


def format_time(moment: datetime) -> str:
    """Write a moment in UTC, to the second."""
    return moment.astimezone(timezone.utc).strftime(_TIME_FORMAT)


def parse_time(text: str) -> datetime:
    """Read what :func:`format_time` wrote."""
    return datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=timezone.utc)
