"""Ed25519 keys: the files they lie in, their ids, and the two things one does with them.

Owns the only place where a private key is in memory. Keys are PEM, as every tool writes them
(PKCS#8 private, SubjectPublicKeyInfo public); any other algorithm is refused by its name::

    key = SigningKey.generate()
    signature = key.sign(b"message")
    verify_signature(key.public, b"message", signature)

Ed25519: RFC 8032. PEM: RFC 8410 and RFC 5958.
"""

import hashlib
from typing import TYPE_CHECKING, NewType

from pfm_edge_runtime._strict_json import JsonValue, canonical
from pfm_edge_runtime.errors import KeyFileError, SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "PublicKey",
    "SigningKey",
    "key_id",
    "public_from_bytes",
    "public_from_pem",
    "public_to_pem",
    "verify_signature",
]

PublicKey = NewType("PublicKey", bytes)
"""32 bytes: an Ed25519 public key as RFC 8032 encodes it. Made by this module's functions."""

_PUBLIC_BYTES = 32
_MAX_PEM_BYTES = 16_384
_MAX_PASSPHRASE_BYTES = 1_023  # what OpenSSL takes
_NEEDED = "pfm-edge needs Ed25519: make a key with pfm-edge keys new"
_PRIME = 2**255 - 19
_SIGN_BIT = 2**255
# The y coordinates of the eight points whose order divides 8 (0, 1, -1 and the roots of order 8).
# Under such a "key" one signature verifies for any message, without a private key.
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = {0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8}


def key_id(public: PublicKey) -> str:
    """Return the id of a key: 64 hexadecimal digits, as securesystemslib computes them.

    It is the SHA-256 of the canonical JSON of key type, key and scheme.
    """
    fields: dict[str, JsonValue] = {
        "keytype": "ed25519",
        "keyval": {"public": public.hex()},
        "scheme": "ed25519",
    }
    return hashlib.sha256(canonical(fields)).hexdigest()


def public_from_bytes(data: bytes) -> PublicKey:
    """Take a raw public key, if it is one that only its owner can sign for.

    Raises:
        KeyFileError: It has not 32 bytes, or it is a second spelling of a key, or one of the few
            for which anyone can make signatures.
    """
    if len(data) != _PUBLIC_BYTES:
        raise KeyFileError(f"a public key has {_PUBLIC_BYTES} bytes, not {len(data)}")
    y = int.from_bytes(data, "little") % _SIGN_BIT
    if y >= _PRIME or y in _SMALL_ORDER:
        raise KeyFileError(f"a public key is one that anyone could sign for; {_NEEDED}")
    return PublicKey(bytes(data))


def public_from_pem(data: bytes) -> PublicKey:
    """Read a public key from PEM.

    Raises:
        KeyFileError: It is no Ed25519 public key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    _require_pem(data, "public")
    if b"PRIVATE KEY-----" in data:
        raise KeyFileError("it is a private key: give the public one, the file that ends in .pub")
    try:
        key = load_pem_public_key(data)
    except UnsupportedAlgorithm as error:
        raise KeyFileError(f"it is a key of an unknown algorithm; {_NEEDED}") from error
    except (TypeError, ValueError) as error:
        raise KeyFileError("it is no public key in PEM: the file is damaged") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"it is {_kind(key)}; {_NEEDED}")
    return public_from_bytes(key.public_bytes_raw())


def public_to_pem(public: PublicKey) -> bytes:
    """Write a public key as PEM (SubjectPublicKeyInfo)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def verify_signature(public: PublicKey, message: bytes, signature: bytes) -> None:
    """Verify a signature over ``message``.

    Raises:
        SignatureError: It was not made by this key over these bytes.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(f"the signature of key {key_id(public)[:16]}… is wrong") from error


class SigningKey:
    """A private key in memory; made by :meth:`generate` and :meth:`from_pem` only.

    Neither its representation nor an error shows more of it than its id.
    """

    __slots__ = ("_key", "_public")

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key
        self._public = public_from_bytes(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> "SigningKey":
        """Draw a key from the operating system's random source."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, data: bytes, passphrase: bytes | None = None) -> "SigningKey":
        """Read a private key from PEM (PKCS#8).

        Args:
            data: The file.
            passphrase: What it was encrypted with; ``None`` for a key that is not.

        Raises:
            KeyFileError: It is no Ed25519 private key, or the passphrase is wrong, missing or
                not needed.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        encrypted = _is_encrypted(data)
        if encrypted and passphrase is None:
            raise KeyFileError("the key is encrypted: give its passphrase")
        if not encrypted and passphrase is not None:
            raise KeyFileError("the key is not encrypted: leave the passphrase out")
        try:
            key = load_pem_private_key(data, None if passphrase is None else _usable(passphrase))
        except UnsupportedAlgorithm as error:
            raise KeyFileError(f"it is a key of an unknown algorithm; {_NEEDED}") from error
        except (TypeError, ValueError) as error:
            wrong = "the passphrase is wrong" if encrypted else "it is no private key in PEM"
            raise KeyFileError(f"{wrong}, or the file is damaged") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"it is {_kind(key)}; {_NEEDED}")
        return cls(key)

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """Write the key as PEM (PKCS#8), encrypted if there is a passphrase.

        Raises:
            KeyFileError: The passphrase is empty or too long.
        """
        from cryptography.hazmat.primitives import serialization

        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(_usable(passphrase))
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    @property
    def public(self) -> PublicKey:
        """The public key that belongs to it."""
        return self._public

    @property
    def key_id(self) -> str:
        """The id of its public key."""
        return key_id(self._public)

    def sign(self, message: bytes) -> bytes:
        """Sign; the 64 bytes of a signature depend on nothing but key and message."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"


def _require_pem(data: bytes, kind: str) -> None:
    if len(data) > _MAX_PEM_BYTES or b"-----BEGIN " not in data:
        raise KeyFileError(f"it is no {kind} key in PEM: give what pfm-edge keys new wrote")


def _is_encrypted(data: bytes) -> bool:
    """Tell what a passphrase has to do with it, before OpenSSL says so in words of its own."""
    _require_pem(data, "private")
    if b"PRIVATE KEY-----" not in data:
        if b"-----BEGIN PUBLIC KEY-----" in data:
            raise KeyFileError("it is a public key: give the private one, without .pub")
        raise KeyFileError("it is no private key in PEM: give what pfm-edge keys new wrote")
    for algorithm in ("RSA", "EC", "DSA", "OPENSSH"):
        if f"-----BEGIN {algorithm} PRIVATE KEY-----".encode() in data:
            raise KeyFileError(f"it is a key in {algorithm} form, not PKCS#8; {_NEEDED}")
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data


def _usable(passphrase: bytes) -> bytes:
    if not 1 <= len(passphrase) <= _MAX_PASSPHRASE_BYTES:
        raise KeyFileError(f"a passphrase has 1 to {_MAX_PASSPHRASE_BYTES} bytes")
    return passphrase


def _kind(key: object) -> str:
    """Name the algorithm of one of cryptography's key objects: ``"an RSA key"``."""
    name = type(key).__name__.replace("PrivateKey", "").replace("PublicKey", "").lstrip("_")
    name = {"EllipticCurve": "EC"}.get(name, name)
    return f"{'an' if name[:1] in 'AEIORX' else 'a'} {name} key"
