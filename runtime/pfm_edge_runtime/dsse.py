"""DSSE: a payload, what kind of payload it is, and signatures over both.

Owns the one signed container of pfm-edge: bundles, receipts, whatever comes later. The text that
was read is kept as it was, because others hash it; what is signed is :func:`pae` of the payload::

    envelope = Envelope.seal(b"{}", "application/json", [key])
    read = Envelope.parse(envelope.text, payload_type="application/json")
    key.public in read.signers()

The text is canonical JSON. Each signature is an object of ``keyid`` (``pfm_edge_runtime.keys``),
``public`` (64 hexadecimal digits; an extension, which other DSSE libraries ignore) and ``sig``
(base64). They ascend by ``public``, and no key signs twice.

DSSE: https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from pfm_edge_runtime._base64 import Base64Error, decode_base64, encode_base64
from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse_canonical,
)
from pfm_edge_runtime.digest import HEX64
from pfm_edge_runtime.errors import EnvelopeError, KeyFileError
from pfm_edge_runtime.keys import (
    PublicKey,
    key_id,
    public_from_bytes,
    verify_signature,
)

__all__ = ["MAX_SIGNATURES", "Envelope", "MessageSigner", "Signature", "pae"]

MAX_SIGNATURES = 16
_MAX_BYTES = 2**24
_SIGNATURE_BYTES = 64
_KEYS = {"payload", "payloadType", "signatures"}
_SIGNATURE_KEYS = {"keyid", "public", "sig"}


class MessageSigner(Protocol):
    """What signs for one key: a ``SigningKey``, or something that reaches a key kept elsewhere."""

    @property
    def public(self) -> PublicKey:
        """The public key that belongs to it."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of a signature over ``message``."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding of type and payload."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope; that it verifies is not said yet.

    Attributes:
        public: The key that is said to have made it.
        value: Its 64 bytes.
    """

    public: PublicKey
    value: bytes

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return key_id(self.public)

    @classmethod
    def parse(cls, value: JsonValue) -> "Signature":
        """Read a signature object.

        Raises:
            EnvelopeError: It is none, or its key id is not that of its key.
        """
        if not isinstance(value, dict) or value.keys() != _SIGNATURE_KEYS:
            raise EnvelopeError(f"a signature has the keys {sorted(_SIGNATURE_KEYS)} and no other")
        public = value["public"]
        if not isinstance(public, str) or HEX64.fullmatch(public) is None:
            raise EnvelopeError("the public key of a signature is not 64 hexadecimal digits")
        try:
            key = public_from_bytes(bytes.fromhex(public))
        except KeyFileError as error:
            raise EnvelopeError(f"a signature cannot be taken: {error}") from error
        if value["keyid"] != key_id(key):
            raise EnvelopeError("a signature's keyid is not that of its Ed25519 key")
        signature = _decoded("sig", value["sig"])
        if len(signature) != _SIGNATURE_BYTES:
            raise EnvelopeError(f"a signature has {_SIGNATURE_BYTES} bytes, not {len(signature)}")
        return cls(key, signature)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the signature object."""
        return {
            "keyid": self.key_id,
            "public": self.public.hex(),
            "sig": encode_base64(self.value),
        }


@dataclass(frozen=True, slots=True, repr=False)
class Envelope:
    """An envelope that is well formed; :meth:`signers` tells who signed it.

    Attributes:
        text: The envelope as stored, JSON.
        payload_type: What the payload is; signed along with it.
        payload: The bytes that it carries.
        signatures: Ascending by key, each key once, at most 16; none is legal.
    """

    text: str
    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(
        cls, text: str | bytes, *, payload_type: str, max_bytes: int = _MAX_BYTES
    ) -> "Envelope":
        """Take an envelope apart.

        Args:
            text: The envelope.
            payload_type: The only type that is taken.
            max_bytes: How long the envelope may be, in bytes.

        Raises:
            EnvelopeError: It is no such envelope, or not in its canonical form.
        """
        found = _object(text, max_bytes)
        if found.keys() != _KEYS:
            raise EnvelopeError(f"it has other keys than {sorted(_KEYS)}")
        if found["payloadType"] != payload_type:
            raise EnvelopeError(f"its payloadType is not {payload_type}")
        listed = found["signatures"]
        if not isinstance(listed, list) or len(listed) > MAX_SIGNATURES:
            raise EnvelopeError(f"its signatures are no array of at most {MAX_SIGNATURES}")
        signatures = tuple(Signature.parse(each) for each in listed)
        if any(first.public >= second.public for first, second in pairwise(signatures)):
            raise EnvelopeError("its signatures must ascend by public key, and no key sign twice")
        payload = _decoded("payload", found["payload"])
        if not payload:
            raise EnvelopeError("its payload is empty")
        text = text if isinstance(text, str) else text.decode("utf-8")
        return cls(text, payload_type, payload, signatures)

    @classmethod
    def seal(
        cls, payload: bytes, payload_type: str, signers: Sequence[MessageSigner] = ()
    ) -> "Envelope":
        """Put a payload into an envelope, and sign it.

        Args:
            payload: The bytes; not empty.
            payload_type: What they are.
            signers: Who signs; nobody is legal.

        Raises:
            EnvelopeError: A key is there twice, there are too many, or the payload is empty.
        """
        message = pae(payload_type, payload)
        made = [Signature(each.public, each.sign(message)) for each in signers]
        return cls._write(payload, payload_type, made)

    def signed_by(self, signer: MessageSigner) -> "Envelope":
        """Return the envelope with one more signature; a key that has signed changes nothing.

        Raises:
            EnvelopeError: It has as many as it may have.
        """
        message = pae(self.payload_type, self.payload)
        others = [each for each in self.signatures if each.public != signer.public]
        made = Signature(signer.public, signer.sign(message))
        return self._write(self.payload, self.payload_type, [*others, made])

    def signers(self) -> frozenset[PublicKey]:
        """Verify every signature and return the keys that made them.

        Raises:
            SignatureError: One of them does not verify; the others are worth nothing then.
        """
        message = pae(self.payload_type, self.payload) if self.signatures else b""
        for each in self.signatures:
            verify_signature(each.public, message, each.value)
        return frozenset(each.public for each in self.signatures)

    def __repr__(self) -> str:
        return f"Envelope({self.payload_type}, {len(self.signatures)} signatures)"

    @classmethod
    def _write(cls, payload: bytes, payload_type: str, made: Sequence[Signature]) -> "Envelope":
        ordered = sorted(made, key=lambda each: each.public)
        text = canonical(
            {
                "payload": encode_base64(payload),
                "payloadType": payload_type,
                "signatures": [each.to_json() for each in ordered],
            }
        )
        return cls.parse(text, payload_type=payload_type, max_bytes=len(text))


def _object(text: str | bytes, max_bytes: int) -> dict[str, JsonValue]:
    limits = JsonLimits(
        max_bytes=max_bytes,
        max_depth=3,
        max_containers=2 * MAX_SIGNATURES,
        max_values=16 * MAX_SIGNATURES,
    )
    try:
        data = text.encode("utf-8") if isinstance(text, str) else text
        found = parse_canonical(data, limits)
    except (StrictJsonError, UnicodeEncodeError) as error:
        finding = error if isinstance(error, StrictJsonError) else "is no UTF-8"
        raise EnvelopeError(f"it {finding}") from error
    if not isinstance(found, dict):
        raise EnvelopeError("it is no JSON object")
    return found


def _decoded(what: str, text: JsonValue) -> bytes:
    if not isinstance(text, str):
        raise EnvelopeError(f"its {what} is no text")
    try:
        return decode_base64(text)
    except Base64Error as error:
        raise EnvelopeError(f"its {what}: {error}") from error
