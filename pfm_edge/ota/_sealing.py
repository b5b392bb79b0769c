"""Signatures inside the targets: those of bundles and of the forget list.

Owns how a target that is an envelope, or holds one, gets signatures of the keys at hand::

    data, missing = sealed(Role.BUNDLES, path, data, authority, signers)

The keys are those of the delegation that names the target, so a device that trusts the one trusts
the other.
"""

from collections.abc import Iterator

from pfm_edge.ota._issue import BUNDLES_FOLDER
from pfm_edge.ota._keys import EnvelopeSigner, Signers, ed25519_of
from pfm_edge.ota._metadata import Authority, Missing
from pfm_edge.ota._roles import Role
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.dsse import Envelope, Signature
from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.keys import PublicKey
from pfm_edge_runtime.ota.forget_list import MAX_FORGET_LIST_BYTES, PAYLOAD_TYPE
from pfm_edge_runtime.ota.names import FORGET_FILE

__all__ = ["joined", "sealed", "signed_by_enough"]


def sealed(
    role: Role, path: str, data: bytes, authority: Authority, signers: Signers
) -> tuple[bytes, tuple[Missing, ...]]:
    """Add the signatures that a target still needs and that can be had.

    Returns:
        The target, and what it lacks; a target that is no envelope of this role stays as it is.

    Raises:
        KeyFileError: A key that was named refuses to sign.
    """
    if role is Role.BUNDLES and path.startswith(BUNDLES_FOLDER):
        bundle = Bundle.from_bytes(data)
        for signer in _signing(bundle.envelope, role, authority, signers):
            bundle = bundle.signed_by(signer)
        what = f"the statement of bundle {path.rpartition('/')[2].partition('.')[0]}"
        return bundle.to_bytes(), _lacking(bundle.envelope, role, what, authority)
    if role is Role.FORGET and path == FORGET_FILE:
        envelope = Envelope.parse(data, payload_type=PAYLOAD_TYPE, max_bytes=MAX_FORGET_LIST_BYTES)
        for signer in _signing(envelope, role, authority, signers):
            envelope = envelope.signed_by(signer)
        text = envelope.text.encode("ascii")
        return text, _lacking(envelope, role, "the forget list", authority)
    return data, ()


def joined(path: str, mine: bytes, theirs: bytes) -> bytes:
    """Return a target with the signatures that another copy of it has, too.

    Raises:
        RepositoryError: They are not copies of one target.
    """
    if path.startswith(BUNDLES_FOLDER):
        bundle, other = Bundle.from_bytes(mine), Bundle.from_bytes(theirs)
        if bundle.payload == other.payload:
            other.envelope.signers()
            for each in other.envelope.signatures:
                bundle = bundle.signed_by(_Made(each))
            return bundle.to_bytes()
    elif path == FORGET_FILE:
        envelopes = [
            Envelope.parse(data, payload_type=PAYLOAD_TYPE, max_bytes=MAX_FORGET_LIST_BYTES)
            for data in (mine, theirs)
        ]
        if envelopes[0].payload == envelopes[1].payload:
            envelopes[1].signers()
            for each in envelopes[1].signatures:
                envelopes[0] = envelopes[0].signed_by(_Made(each))
            return envelopes[0].text.encode("ascii")
    elif mine == theirs:
        return mine
    raise RepositoryError(f"{path}: the copy holds another one than the change that waits here")


class _Made:
    """A signature that was made elsewhere, in the place of its key."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature

    @property
    def public(self) -> PublicKey:
        return self._signature.public

    def sign(self, message: bytes) -> bytes:  # noqa: ARG002 (as every signer's)
        return self._signature.value


def signed_by_enough(bundle: Bundle, authority: Authority) -> bool:
    """Tell whether enough of the bundle keys have signed a bundle."""
    return not _lacking(bundle.envelope, Role.BUNDLES, "", authority)


def _signing(
    envelope: Envelope, role: Role, authority: Authority, signers: Signers
) -> Iterator[EnvelopeSigner]:
    """Yield the keys at hand that shall sign: no more of them than are needed."""
    threshold, keys = authority.keys(role)
    signed = envelope.signers()
    lacking = threshold - sum(ed25519_of(key) in signed for key in keys.values())
    for key_id, key in keys.items():
        signer = None if ed25519_of(key) in signed else signers.message_signer(key_id)
        if signer is not None and lacking > 0:
            lacking -= 1
            yield signer


def _lacking(
    envelope: Envelope, role: Role, what: str, authority: Authority
) -> tuple[Missing, ...]:
    threshold, keys = authority.keys(role)
    signers = envelope.signers()
    unsigned = [each for each, key in keys.items() if ed25519_of(key) not in signers]
    count = threshold - (len(keys) - len(unsigned))
    return (Missing(role, what, count, tuple(unsigned)),) if count > 0 else ()
