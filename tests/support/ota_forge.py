"""TUF metadata at will: a small repository of a test's own, or somebody's who holds stolen keys.

Owns how tests write metadata that no honest publisher would. A forge has the newest metadata of
every role, open to change, and the keys of whoever it plays::

    forge = Forge.create(tmp_path)                        # a repository with a key for each role
    forge.targets().targets["a"] = forge.target("a", b"data")
    forge.publish("targets")                              # and snapshot and timestamp after it

    thief = Forge.open(repository / "public", {"timestamp": [stolen]})
    thief.timestamp.version = 2**31
    thief.write("timestamp")                              # signed with what the thief has
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

__all__ = ["ROLES", "Forge", "new_signer"]

ROLES = ("root", "targets", "snapshot", "timestamp")
_KEPT = timedelta(days=30)


def new_signer() -> CryptoSigner:
    """Make a key."""
    return CryptoSigner.generate_ed25519()


class Forge:
    """Metadata in the making; ``md`` holds the newest of each role.

    Attributes:
        folder: The repository, with ``metadata`` and ``targets`` in it.
        md: Metadata by role.
        signers: Keys by role, as far as whoever writes has them.
        hashes: Whether hashes and lengths of metadata are stated.
    """

    def __init__(self, folder: Path, signers: Mapping[str, Sequence[Signer]]) -> None:
        self.folder = folder
        self.md: dict[str, Metadata[Any]] = {}
        self.signers = {role: [*keys] for role, keys in signers.items()}
        self.hashes = True

    @classmethod
    def create(cls, folder: Path, *, consistent: bool = True) -> "Forge":
        """Begin a repository: version 1 of everything, one key for each role."""
        forge = cls.unwritten(folder, expires=_now() + _KEPT, consistent=consistent)
        for role in ROLES:
            forge.write(role)
        return forge

    @classmethod
    def unwritten(cls, folder: Path, *, expires: datetime, consistent: bool = True) -> "Forge":
        """As :meth:`create`, with nothing on the disk yet."""
        forge = cls(folder, {role: [new_signer()] for role in ROLES})
        forge.md = {
            "root": Metadata(Root(expires=expires, consistent_snapshot=consistent)),
            "targets": Metadata(Targets(expires=expires)),
            "snapshot": Metadata(Snapshot(expires=expires)),
            "timestamp": Metadata(Timestamp(expires=expires)),
        }
        for role in ROLES:
            forge.root.add_key(forge.signers[role][0].public_key, role)
        return forge

    @classmethod
    def open(cls, folder: Path, signers: Mapping[str, Sequence[Signer]]) -> "Forge":
        """Read the newest metadata of a repository that somebody else made."""
        forge = cls(folder, signers)
        for path in (folder / "metadata").iterdir():
            found: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
            role = path.name.removesuffix(".json").rpartition(".")[2]
            known = forge.md.get(role)
            if known is None or known.signed.version < found.signed.version:
                forge.md[role] = found
        return forge

    @property
    def root(self) -> Root:
        return cast("Root", self.md["root"].signed)

    @property
    def snapshot(self) -> Snapshot:
        return cast("Snapshot", self.md["snapshot"].signed)

    @property
    def timestamp(self) -> Timestamp:
        return cast("Timestamp", self.md["timestamp"].signed)

    def targets(self, role: str = "targets") -> Targets:
        return cast("Targets", self.md[role].signed)

    def path(self, role: str, version: int | None = None) -> Path:
        """Return where a version of a role's metadata lies; ``None``: the newest."""
        name = quote(role, safe="")
        number = self.md[role].signed.version if version is None else version
        plain = role == "timestamp" or (role != "root" and not self.root.consistent_snapshot)
        return self.folder / "metadata" / (f"{name}.json" if plain else f"{number}.{name}.json")

    def sign(self, role: str) -> bytes:
        """Sign a role's metadata as it is now, with every key at hand; return the file."""
        md = self.md[role]
        md.signatures.clear()
        for signer in self.signers.get(role, ()):
            md.sign(signer, append=True)
        return md.to_bytes()

    def write(self, role: str) -> bytes:
        """Sign a role's metadata, put it into the repository, and state it one level above."""
        data = self.sign(role)
        path = self.path(role)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._state(role, data)
        return data

    def publish(self, *roles: str) -> None:
        """Write the next version of these roles, and of snapshot and timestamp."""
        for role in (*roles, "snapshot", "timestamp"):
            self.md[role].signed.version += 1
            self.write(role)

    def publish_root(self, *also: Signer) -> None:
        """Write the next root, signed with its own keys and with others (those that go)."""
        self.root.version += 1
        kept = self.signers["root"]
        self.signers["root"] = [*kept, *(each for each in also if each not in kept)]
        self.write("root")
        self.signers["root"] = kept

    def rotate(self, role: str, *, count: int = 1) -> list[Signer]:
        """Give a top-level role new keys in the root (to be published); return the old ones."""
        old = self.signers[role]
        self.root.roles[role].keyids.clear()
        self.signers[role] = [new_signer() for _ in range(count)]
        for signer in self.signers[role]:
            self.root.add_key(signer.public_key, role)
        return old

    def delegate(
        self, role: str, paths: Iterable[str], *, parent: str = "targets", terminating: bool = True
    ) -> None:
        """Delegate paths to a new role with a key of its own (to be published)."""
        signer, delegator = new_signer(), self.targets(parent)
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, {})
        assert delegator.delegations.roles is not None
        delegator.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, [*paths])
        delegator.add_key(signer.public_key, role)
        self.signers[role] = [signer]
        if role not in self.md:
            self.md[role] = Metadata(Targets(expires=_now() + _KEPT))
            self.md[role].signed.version = 0  # the first that is published is 1

    def replace_delegation_key(self, role: str, signer: Signer) -> None:
        """Let a delegation be signed by another key alone (to be published)."""
        delegations = self.targets().delegations
        assert delegations is not None
        assert delegations.roles is not None
        delegations.roles[role].keyids.clear()
        self.targets().add_key(signer.public_key, role)
        self.signers[role] = [signer]

    def add_target(self, path: str, data: bytes, *, role: str = "targets") -> Path:
        """Add a target to a role's metadata (to be published), and its file."""
        self.targets(role).targets[path] = self.target(path, data)
        return self.put_target(path, data)

    def put_target(self, path: str, data: bytes) -> Path:
        """Put a target's file where a client looks for it."""
        folder, _, name = path.rpartition("/")
        prefix = hashlib.sha256(data).hexdigest() + "." if self.root.consistent_snapshot else ""
        file = self.folder / "targets" / folder / (prefix + name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    @staticmethod
    def target(path: str, data: bytes) -> TargetFile:
        """Describe a target."""
        return TargetFile.from_data(path, data, ["sha256"])

    def _state(self, role: str, data: bytes) -> None:
        meta = MetaFile(self.md[role].signed.version)
        if self.hashes:
            meta = MetaFile.from_data(meta.version, data, ["sha256"])
        if role == "snapshot":
            self.timestamp.snapshot_meta = meta
        elif role not in {"root", "timestamp"}:
            self.snapshot.meta[f"{role}.json"] = meta


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
