"""The keys of a publisher: files, or anything that securesystemslib signs with.

Owns how a person names a key, and the way from such a name to a signature::

    key = read_key("root-1.pem")                     # a private key of pfm-edge keys new
    key = read_key("bob.pub")                        # somebody else will sign
    key = read_key("alice.pub=hsm:2?label=alice")    # a signer URI, and its public key
    Signers([key]).of(key.key_id)

A private key is read when its first signature is due, so that a scheduler is not asked for the
passphrases of keys that it does not need.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.signer import (
    KEY_TYPE_ED25519,
    SIGNER_FOR_URI_SCHEME,
    Key,
    Signature,
    Signer,
    SSlibKey,
)

from pfm_edge._key_files import public_path, read_signing_keys
from pfm_edge._reading import read_whole
from pfm_edge_runtime.errors import KeyFileError
from pfm_edge_runtime.keys import PublicKey, public_from_bytes

__all__ = ["Ask", "EnvelopeSigner", "RoleKey", "Signers", "ed25519_of", "read_key"]

_MAX_BYTES = 1 << 16
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")
_OWN_FILES = "file2"

Ask = Callable[[Path], bytes]


@dataclass(frozen=True, slots=True)
class RoleKey:
    """A key, and where its private half is, if that is known here.

    Attributes:
        public: The public half, as TUF lists it.
        source: Path of a private key, or a signer URI; ``None`` where somebody else signs.
    """

    public: Key
    source: str | None = None

    @property
    def key_id(self) -> str:
        """The id of the key, 64 hexadecimal digits."""
        return self.public.keyid


def read_key(name: str, ask: Ask | None = None) -> RoleKey:
    """Read a key that a person names.

    Args:
        name: A private key's file, a public key's file, a signer URI ``file2:PATH``, or
            ``PUBLIC_FILE=URI`` for every other signer.
        ask: Asks for the passphrase of a private key that has no public file beside it.

    Raises:
        KeyFileError: There is no such key, or not of a kind that can be used.
    """
    public_file, equals, uri = name.partition("=")
    if equals and _scheme(uri) and os.path.exists(public_file):  # noqa: PTH110 (as in the runtime)
        return RoleKey(_read_public(Path(public_file)), uri)
    if not os.path.exists(name) and (scheme := _scheme(name)):  # noqa: PTH110 (as in the runtime)
        if scheme != _OWN_FILES:
            raise KeyFileError(f"{name}: name its public key, too: PUBLIC_FILE={name}")
        return RoleKey(_public_of_file(Path(name.partition(":")[2])), name)
    path = Path(name)
    data = read_whole(path, most=_MAX_BYTES, error=KeyFileError)
    if b"PRIVATE KEY-----" not in data:
        return RoleKey(_read_public(path))
    beside = public_path(path)
    if beside.is_file():
        return RoleKey(_read_public(beside), str(path.absolute()))
    [key] = read_signing_keys([path], ask=ask)
    return RoleKey(_listed(key.public), str(path.absolute()))


def ed25519_of(key: Key) -> PublicKey | None:
    """Return a key as pfm-edge knows it; ``None`` if it is of another algorithm."""
    if key.keytype != KEY_TYPE_ED25519:
        return None
    return public_from_bytes(bytes.fromhex(key.keyval["public"]))


class Signers:
    """The keys that are at hand, each loaded when it is first needed.

    Args:
        keys: Named for this very command: one that cannot be had is an error.
        remembered: Named when the repository was made: one that cannot be had is just not there.
        ask: Asks a person for the passphrase of a file.
    """

    def __init__(
        self,
        keys: Iterable[RoleKey] = (),
        *,
        remembered: Iterable[RoleKey] = (),
        ask: Ask | None = None,
    ) -> None:
        named = {each.key_id: each for each in keys if each.source is not None}
        self._required = set(named)
        self._keys = {each.key_id: each for each in remembered if each.source is not None} | named
        self._loaded: dict[str, Signer | None] = {}
        self._ask = ask
        self.reasons: dict[str, str] = {}
        """Why a remembered key is not at hand, by key id."""

    def named(self, key_id: str) -> bool:
        """Tell whether a key was named for this very command."""
        return key_id in self._required

    def of(self, key_id: str) -> Signer | None:
        """Return what signs for a key, or ``None`` if that is not at hand.

        Raises:
            KeyFileError: It was named for this command and cannot be used.
        """
        if key_id not in self._loaded:
            self._loaded[key_id] = self._load(key_id)
        return self._loaded[key_id]

    def message_signer(self, key_id: str) -> "EnvelopeSigner | None":
        """As :meth:`of`, for signing an envelope; only Ed25519 keys do that."""
        signer = self.of(key_id)
        return None if signer is None else EnvelopeSigner(signer)

    def _load(self, key_id: str) -> Signer | None:
        key = self._keys.get(key_id)
        if key is None or key.source is None:
            return None
        try:
            return _signer(key, key.source, self._ask)
        except KeyFileError as error:
            if key_id in self._required:
                raise
            self.reasons[key_id] = str(error)
            return None


class EnvelopeSigner:
    """An Ed25519 key of any signer, as ``pfm_edge_runtime.dsse`` wants it."""

    def __init__(self, signer: Signer) -> None:
        public = ed25519_of(signer.public_key)
        if public is None:
            raise KeyFileError(
                f"key {signer.public_key.keyid[:16]}… is no Ed25519 key: bundles and forget lists "
                "are signed with those"
            )
        self._public, self._signer = public, signer

    @property
    def public(self) -> PublicKey:
        """The public key."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of a signature over ``message``."""
        return bytes.fromhex(self._signer.sign(message).signature)


class _KeySigner(Signer):
    """A key of ours or of securesystemslib's, as TUF signs with it."""

    def __init__(self, public: Key, sign: Callable[[bytes], Signature]) -> None:
        self._public, self._sign = public, sign

    @property
    def public_key(self) -> Key:
        return self._public

    @classmethod
    def from_priv_key_uri(
        cls,
        priv_key_uri: str,
        public_key: Key,
        secrets_handler: object = None,  # noqa: ARG003 (securesystemslib's signature)
    ) -> Signer:
        return _signer(RoleKey(public_key, priv_key_uri), priv_key_uri, None)

    def sign(self, payload: bytes) -> Signature:
        return self._sign(payload)


def _signer(key: RoleKey, source: str, ask: Ask | None) -> Signer:
    if _scheme(source) and not os.path.exists(source):  # noqa: PTH110 (as in the runtime)
        with _one_line(source):
            foreign = Signer.from_priv_key_uri(source, key.public)

        def sign(payload: bytes) -> Signature:
            with _one_line(source):
                return foreign.sign(payload)

        return _KeySigner(key.public, sign)
    [found] = read_signing_keys([Path(source)], ask=ask)
    if found.key_id != key.key_id:
        raise KeyFileError(f"{source}: it is another key now, {found.key_id[:16]}…")
    return _KeySigner(
        key.public, lambda payload: Signature(found.key_id, found.sign(payload).hex())
    )


@contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """Turn whatever the client of a KMS or of a token raises into a line of ours."""
    try:
        yield
    except Exception as error:  # each client has its own, and none of them is documented
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KeyFileError(f"{uri}: it does not sign ({reason})") from error


def _scheme(text: str) -> str | None:
    found = _SCHEME.match(text)
    return found[1] if found and found[1] in SIGNER_FOR_URI_SCHEME else None


def _listed(public: PublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(public))


def _read_public(path: Path) -> SSlibKey:
    data = read_whole(path, most=_MAX_BYTES, error=KeyFileError)
    try:
        return _checked(SSlibKey.from_crypto(load_pem_public_key(data)), str(path))
    except (TypeError, ValueError) as error:
        raise KeyFileError(f"{path}: it is no public key in PEM that TUF knows") from error


def _public_of_file(path: Path) -> SSlibKey:
    data = read_whole(path, most=_MAX_BYTES, error=KeyFileError)
    try:
        public = load_pem_private_key(data, None).public_key()
        return _checked(SSlibKey.from_crypto(public), str(path))
    except (TypeError, ValueError) as error:
        raise KeyFileError(f"{path}: it is no unencrypted private key in PEM") from error


def _checked(key: SSlibKey, name: str) -> SSlibKey:
    """Refuse an Ed25519 key that anyone could sign for."""
    try:
        ed25519_of(key)
    except KeyFileError as error:
        raise KeyFileError(f"{name}: {error}") from error
    return key
