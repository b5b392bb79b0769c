"""Whose signatures count, as TUF's metadata says it, and who they are told apart by.

Owns what TUF leaves open: a threshold counts key ids, so one key under two ids would sign for two.
Keys are told apart by what they are::

    require_distinct_keys(root.keys, "root")
    trusted_keys(targets.delegations, "bundles")           # Ed25519, as a bundle's signatures
"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pfm_edge_runtime._strict_json import JsonValue, canonical
from pfm_edge_runtime.bundle import TrustedKeys
from pfm_edge_runtime.errors import KeyFileError, RepositoryError
from pfm_edge_runtime.keys import PublicKey, public_from_bytes

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Delegations, Root

__all__ = ["require_distinct_keys", "role_digest", "trusted_keys"]


def require_distinct_keys(keys: "Mapping[str, Key]", role: str) -> None:
    """Require that no key is listed under two ids.

    Raises:
        RepositoryError: One is.
    """
    if len({_identity(key) for key in keys.values()}) != len(keys):
        raise RepositoryError(
            f"its {role} metadata lists one key under two ids, which would count twice: "
            "the publisher must list it once"
        )


def role_digest(delegator: "Root | Delegations", role: str) -> str:
    """Digest the keys and the threshold of a role; 64 hexadecimal digits.

    Raises:
        RepositoryError: The role is not there.
    """
    threshold, keys = _role(delegator, role)
    named: list[JsonValue] = [each.hex() for each in sorted(map(_identity, keys))]
    return hashlib.sha256(canonical({"keys": named, "threshold": threshold})).hexdigest()


def trusted_keys(delegations: "Delegations", role: str) -> TrustedKeys:
    """Return the keys of a delegation as those that sign bundles, or the forget list.

    Raises:
        RepositoryError: The role is not there, or a key of it is not Ed25519.
    """
    threshold, keys = _role(delegations, role)
    try:
        found = {_public_of(key) for key in keys}
    except (KeyFileError, ValueError) as error:
        raise RepositoryError(
            f"a key of its role {role} is no Ed25519 key: {error}; the publisher must use one"
        ) from error
    if not 1 <= threshold <= len(found):
        raise RepositoryError(
            f"its role {role} needs {threshold} of {len(found)} keys: the publisher must mend that"
        )
    return TrustedKeys(threshold, frozenset(found))


def _public_of(key: "Key") -> PublicKey:
    if key.keytype != "ed25519":
        raise KeyFileError(f"its type is {key.keytype}")
    return public_from_bytes(bytes.fromhex(key.keyval["public"]))


def _role(delegator: "Root | Delegations", role: str) -> "tuple[int, list[Key]]":
    found = (delegator.roles or {}).get(role)
    if found is None:
        raise RepositoryError(
            f"its metadata has no role {role}: it is no repository of pfm-edge ota init"
        )
    known = delegator.keys
    return found.threshold, [known[each] for each in found.keyids if each in known]


def _identity(key: "Key") -> bytes:
    """Return the bytes that stand for a public key, however it is spelt."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    public = str(key.keyval.get("public", ""))
    if "-----BEGIN" in public:
        try:
            loaded = load_pem_public_key(public.encode("utf-8"))
            return loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except (TypeError, UnsupportedAlgorithm, ValueError):
            return "".join(public.split()).encode("utf-8")
    try:
        return bytes.fromhex(public)
    except ValueError:
        return public.encode("utf-8")
