"""Key files: a private key that nobody else may read, and the public one beside it.

Owns where keys lie on the workstation; what a key is says `pfm_edge_runtime.keys`::

    write_key_pair(Path("issuer.pem"), passphrase=None)       # and issuer.pub; returns the key id
    keys = read_signing_keys([Path("issuer.pem")])
    read_public_key(Path("issuer.pub"))
"""

# ruff: noqa: PTH108 (system calls by name: the fault tests count them)

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge_runtime.errors import KeyFileError
from pfm_edge_runtime.keys import PublicKey, SigningKey, public_from_pem, public_to_pem

__all__ = [
    "public_path",
    "read_passphrase",
    "read_public_key",
    "read_signing_keys",
    "write_key_pair",
]

_MAX_BYTES = 1 << 14  # a key in PEM has 200
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


def public_path(private: Path) -> Path:
    """Return where the public key of a private one lies: `issuer.pub` for `issuer.pem`."""
    return private.with_suffix(".pub") if private.suffix == ".pem" else Path(f"{private}.pub")


def write_key_pair(private: Path, *, passphrase: bytes | None) -> SigningKey:
    """Draw a key and write both halves, neither of them over anything.

    The private one has mode 0600 from its first byte.

    Args:
        private: where it goes; the public one goes to `public_path`.
        passphrase: what the private one is encrypted with; None leaves it readable.

    Raises:
        KeyFileError: one of the two is there already, cannot be written, or the passphrase is
            empty or too long. Neither is left.
    """
    public = public_path(private)
    for path in (private, public):
        if os.path.lexists(path):
            raise KeyFileError(f"{path}: is there already, and a key is never replaced")
    key = SigningKey.generate()
    _write_new(private, key.to_pem(passphrase), 0o600)
    try:
        _write_new(public, public_to_pem(key.public), 0o644)
    except BaseException:
        os.unlink(private)
        raise
    return key


def read_signing_keys(
    paths: Sequence[Path],
    passphrase: bytes | None = None,
    ask: Callable[[Path], bytes] | None = None,
) -> tuple[SigningKey, ...]:
    """Read private keys.

    Args:
        paths: the files.
        passphrase: that of every one of them that is encrypted.
        ask: asks a person for the passphrase of one, where none is given.

    Raises:
        KeyFileError: one of them is no Ed25519 private key, or its passphrase is wrong, missing
            or not needed.
    """
    found = [(path, read_whole(path, most=_MAX_BYTES, error=KeyFileError)) for path in paths]
    some_encrypted = any(_ENCRYPTED in data for _, data in found)
    keys = []
    for path, data in found:
        secret = passphrase if _ENCRYPTED in data or not some_encrypted else None
        if secret is None and _ENCRYPTED in data and ask is not None:
            secret = ask(path)
        try:
            keys.append(SigningKey.from_pem(data, secret))
        except KeyFileError as error:
            raise KeyFileError(f"{path}: {error}") from error
    return tuple(keys)


def read_public_key(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        KeyFileError: it is no Ed25519 public key.
    """
    data = read_whole(path, most=_MAX_BYTES, error=KeyFileError)
    try:
        return public_from_pem(data)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from error


def read_passphrase(path: Path) -> bytes:
    """Read a passphrase: the first line of a file, which must be its only one.

    Raises:
        KeyFileError: the file is unreadable, empty, or has several lines.
    """
    data = read_whole(path, most=_MAX_BYTES, error=KeyFileError)
    line = data.removesuffix(b"\n").removesuffix(b"\r")
    if not line or b"\n" in line:
        raise KeyFileError(f"{path}: a passphrase file holds the passphrase, in one line")
    return line


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write and sync a file that must not exist yet; leave none if that fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be made ({error.strerror})") from error
    try:
        try:
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync(path.parent)
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            raise KeyFileError(f"{path}: cannot be written ({error.strerror})") from error
        raise


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
