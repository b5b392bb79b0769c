"""TUF's metadata as a publisher makes it: parsed, given a new version, signed, counted.

Owns the only use of ``tuf.api.metadata``::

    root = new_root(keys, thresholds, expires)
    targets = next_version(current[Role.TARGETS], expires)
    missing_signatures(Role.TARGETS, targets, authority)     # who must sign still

What a library raises becomes a :class:`RepositoryError`.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Key, Signature
from tuf.api.exceptions import RepositoryError as TufRepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
    VerificationResult,
)
from tuf.api.metadata import Role as TufRole
from tuf.api.serialization import DeserializationError

from pfm_edge.ota._keys import Signers, ed25519_of
from pfm_edge.ota._roles import DELEGATED, Role
from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import ConfigError, RepositoryError

__all__ = [
    "AnyMetadata",
    "Authority",
    "MetadataByRole",
    "Missing",
    "change_keys",
    "meta_file",
    "missing_signatures",
    "new_root",
    "new_targets",
    "next_version",
    "parse_metadata",
    "reached_version",
    "sign_metadata",
    "target_file",
    "valid_signatures",
]

AnyMetadata = Metadata[Any]
MetadataByRole = Mapping[Role, AnyMetadata]

_TYPES: Mapping[Role, type[Signed]] = {
    Role.ROOT: Root,
    Role.TARGETS: Targets,
    Role.BUNDLES: Targets,
    Role.FORGET: Targets,
    Role.SNAPSHOT: Snapshot,
    Role.TIMESTAMP: Timestamp,
}
_HASH = "sha256"


@dataclass(frozen=True, slots=True)
class Missing:
    """Signatures that a change lacks.

    Attributes:
        role: Whose.
        what: What is to be signed, as ``"metadata"``.
        count: So many more.
        key_ids: Any of these keys.
    """

    role: Role
    what: str
    count: int
    key_ids: tuple[str, ...]

    def __str__(self) -> str:
        plural = "s" if self.count > 1 else ""
        of = ", ".join(f"{each[:16]}…" for each in self.key_ids)
        return f"{self.role}: {self.what} needs {self.count} more signature{plural} of {of}"


@dataclass(frozen=True, slots=True)
class Authority:
    """Who may sign what: the root and the targets metadata that say so.

    Attributes:
        root: The root that the change leads to.
        targets: The targets metadata that it leads to.
        before: The root that is in force; ``None`` in the first change.
    """

    root: AnyMetadata
    targets: AnyMetadata
    before: AnyMetadata | None = None

    def keys(self, role: Role) -> tuple[int, dict[str, Key]]:
        """Return threshold and keys of a role, by key id."""
        signed = self.targets.signed if role in DELEGATED else self.root.signed
        found = signed.get_delegated_role(role.value)
        return found.threshold, {each: signed.get_key(each) for each in sorted(found.keyids)}

    def trusted(self, role: Role) -> TrustedKeys:
        """Return the keys of a delegation as a device trusts them for bundles or forget lists."""
        threshold, keys = self.keys(role)
        found = {each: ed25519_of(key) for each, key in keys.items()}
        if None in found.values():
            raise ConfigError(f"{role}: its keys must be Ed25519")
        return TrustedKeys(threshold, frozenset(each for each in found.values() if each))


def parse_metadata(role: Role, data: bytes, name: str) -> AnyMetadata:
    """Read metadata; its signatures are not verified.

    Raises:
        RepositoryError: It is none of that role; ``name`` says which file.
    """
    try:
        found: AnyMetadata = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise RepositoryError(f"{name}: it is no metadata of TUF; it was damaged") from error
    if not isinstance(found.signed, _TYPES[role]):
        raise RepositoryError(f"{name}: it is metadata of another role than {role}")
    return found


def new_root(
    keys: Mapping[Role, Iterable[Key]], thresholds: Mapping[Role, int], expires: datetime
) -> AnyMetadata:
    """Make the first root: the keys of the four roles of TUF."""
    top = [role for role in Role if role not in DELEGATED]
    roles = {
        role.value: TufRole([each.keyid for each in keys[role]], thresholds[role]) for role in top
    }
    by_id = {each.keyid: each for role in top for each in keys[role]}
    return Metadata(Root(1, None, expires, by_id, roles, consistent_snapshot=True))


def new_targets(
    keys: Mapping[Role, Iterable[Key]], thresholds: Mapping[Role, int], expires: datetime
) -> dict[Role, AnyMetadata]:
    """Make the first targets metadata and the delegations, empty."""
    delegated = {
        role.value: DelegatedRole(
            role.value,
            [each.keyid for each in keys[role]],
            thresholds[role],
            terminating=True,
            paths=list(role.paths),
        )
        for role in DELEGATED
    }
    by_id = {each.keyid: each for role in DELEGATED for each in keys[role]}
    targets = Targets(1, None, expires, {}, Delegations(by_id, delegated))
    return {
        Role.TARGETS: Metadata(targets),
        **{role: Metadata(Targets(1, None, expires, {})) for role in DELEGATED},
    }


def next_version(found: AnyMetadata, expires: datetime) -> AnyMetadata:
    """Return the next version of metadata, unsigned, to be changed."""
    signed = copy.deepcopy(found.signed)
    signed.version += 1
    signed.expires = expires
    return Metadata(signed)


def reached_version(found: AnyMetadata, version: int) -> AnyMetadata:
    """Return metadata as if it had reached a version, with no signature; never a lower one."""
    if version <= found.signed.version:
        return found
    signed = copy.deepcopy(found.signed)
    signed.version = version
    return Metadata(signed)


def change_keys(
    metadata: AnyMetadata, role: Role, add: Iterable[Key], remove: Iterable[str], threshold: int
) -> None:
    """Change the keys of a role in the root, or of a delegation in the targets metadata.

    Raises:
        ConfigError: A key that shall go is none of the role's.
    """
    signed = metadata.signed
    for key_id in remove:
        try:
            signed.revoke_key(key_id, role.value)
        except ValueError as error:
            raise ConfigError(f"{role}: it has no key {key_id[:16]}…") from error
    for key in add:
        signed.add_key(key, role.value)
    signed.get_delegated_role(role.value).threshold = threshold


def target_file(path: str, data: bytes) -> TargetFile:
    """Describe a target: length and SHA-256."""
    return TargetFile.from_data(path, data, [_HASH])


def meta_file(metadata: AnyMetadata) -> MetaFile:
    """Describe metadata for what points to it: version, length, SHA-256."""
    return MetaFile.from_data(metadata.signed.version, metadata.to_bytes(), [_HASH])


def sign_metadata(
    role: Role, metadata: AnyMetadata, authority: Authority, signers: Signers
) -> None:
    """Sign with the keys of the role that are at hand: those named, and as many as are needed.

    Raises:
        KeyFileError: A key that was named for this refuses to sign.
        RepositoryError: The role has no keys there.
    """
    unsigned = {key_id for each in _results(role, metadata, authority) for key_id in each.unsigned}
    for key_id in sorted(unsigned, key=lambda each: (not signers.named(each), each)):
        if not signers.named(key_id) and not missing_signatures(role, metadata, authority):
            return
        signer = signers.of(key_id)
        if signer is not None:
            metadata.signatures[key_id] = signer.sign(metadata.signed_bytes)


def valid_signatures(
    role: Role, metadata: AnyMetadata, authority: Authority
) -> dict[str, Signature]:
    """Return those signatures that are of the role's keys and verify.

    Raises:
        RepositoryError: The role has no keys there.
    """
    signed = {key_id for each in _results(role, metadata, authority) for key_id in each.signed}
    return {each: metadata.signatures[each] for each in sorted(signed)}


def missing_signatures(
    role: Role, metadata: AnyMetadata, authority: Authority
) -> tuple[Missing, ...]:
    """Say which signatures metadata lacks; a root needs those of the root before it, too.

    Raises:
        RepositoryError: The role has no keys there.
    """
    found = {
        Missing(role, "metadata", each.missing, tuple(sorted(each.unsigned))): None
        for each in _results(role, metadata, authority)
        if each.missing
    }
    return tuple(found)


def _results(role: Role, metadata: AnyMetadata, authority: Authority) -> list[VerificationResult]:
    if role is Role.ROOT:
        judges = [metadata] if authority.before is None else [authority.before, metadata]
    else:
        judges = [authority.targets if role in DELEGATED else authority.root]
    arguments = (role.value, metadata.signed_bytes, metadata.signatures)
    try:
        return [each.signed.get_verification_result(*arguments) for each in judges]
    except (TufRepositoryError, ValueError) as error:
        raise RepositoryError(f"{role}: {error}") from error
