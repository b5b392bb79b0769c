"""Keys: the files they lie in, what is refused and how it is said, and whose signature it is."""

import pickle
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import SSlibKey

from pfm_edge_runtime.errors import KeyFileError, SignatureError
from pfm_edge_runtime.keys import (
    PublicKey,
    SigningKey,
    key_id,
    public_from_bytes,
    public_from_pem,
    public_to_pem,
    verify_signature,
)

# RFC 8032, section 7.1, test 2; the PEM is RFC 8410's wrapping of the seed.
_SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
_PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
_PEM = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7
-----END PRIVATE KEY-----
"""
_KEY = SigningKey.from_pem(_PEM)
_SECRET = SigningKey.generate()
_ENCRYPTED = _SECRET.to_pem(b"correct horse")


def test_signs_as_rfc_8032_does() -> None:
    assert _KEY.public == _PUBLIC
    assert _KEY.sign(b"\x72") == _SIGNATURE
    assert _KEY.to_pem() == _PEM
    verify_signature(_KEY.public, b"\x72", _SIGNATURE)


def test_the_key_id_is_securesystemslibs() -> None:
    theirs = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(_PUBLIC))
    assert key_id(_KEY.public) == _KEY.key_id == theirs.keyid


@pytest.mark.parametrize("passphrase", [None, b"x", "pässword".encode(), b"\0" * 1023])
def test_files_give_the_same_key_back(passphrase: bytes | None) -> None:
    pem = _SECRET.to_pem(passphrase)
    assert SigningKey.from_pem(pem, passphrase).sign(b"m") == _SECRET.sign(b"m")
    assert public_from_pem(public_to_pem(_SECRET.public)) == _SECRET.public
    assert (b"ENCRYPTED" in pem) == (passphrase is not None)


def test_a_private_key_shows_its_id_only() -> None:
    assert repr(_KEY) == str(_KEY) == f"SigningKey({_KEY.key_id})"
    assert _SEED.hex() not in repr(vars(type(_KEY))) + repr(_KEY)
    with pytest.raises(TypeError):
        pickle.dumps(_KEY)


@pytest.mark.parametrize(
    ("public", "message", "signature"),
    [
        (_SECRET.public, b"\x72", _SIGNATURE),
        (_KEY.public, b"\x73", _SIGNATURE),
        (_KEY.public, b"\x72", _SIGNATURE[:-1]),
        (_KEY.public, b"\x72", b""),
        (PublicKey(b"\x02" + bytes(31)), b"\x72", _SIGNATURE),  # no point has this y
    ],
    ids=["another key", "another message", "cut short", "empty", "no key at all"],
)
def test_refuses_signatures(public: PublicKey, message: bytes, signature: bytes) -> None:
    with pytest.raises(SignatureError, match="key"):
        verify_signature(public, message, signature)


# --- keys that are none


def test_refuses_every_point_of_small_order_in_every_spelling() -> None:
    """Find them by the curve's own arithmetic (RFC 8032, 5.1): eight points, and more spellings."""
    p = 2**255 - 19
    d = -121665 * pow(121666, p - 2, p) % p
    root = pow(2, (p - 1) // 4, p)

    def doubled(x: int, y: int) -> tuple[int, int]:
        product = d * x * x * y * y
        return (
            2 * x * y * pow(1 + product, p - 2, p) % p,
            (y * y + x * x) * pow(1 - product, p - 2, p) % p,
        )

    def roots(square: int) -> set[int]:
        x = pow(square, (p + 3) // 8, p)
        return {r % p for r in (x, -x, x * root, -x * root) if (r * r - square) % p == 0}

    # Halving the points of order 4, (±sqrt(-1), 0): y = ±ix, so d·x⁴ - 2·x² - 1 = 0 or + 2·x².
    ys = {0, 1, p - 1}
    for sign in (1, -1):
        for half in roots(1 + d):
            for x in roots((sign + half) * pow(d, p - 2, p) % p):
                ys |= {root * x % p, -root * x % p}
    ys = {y for y in ys if _order_divides_8(y, p, d, roots, doubled)}
    assert len(ys) == 5
    for y in ys:
        for spelt in (y, y + 2**255, *([y + p, y + p + 2**255] if y + p < 2**255 else [])):
            with pytest.raises(KeyFileError, match="anyone could sign"):
                public_from_bytes(spelt.to_bytes(32, "little"))


def _order_divides_8(
    y: int,
    p: int,
    d: int,
    roots: Callable[[int], set[int]],
    doubled: Callable[[int, int], tuple[int, int]],
) -> bool:
    found = []
    for x in roots((y * y - 1) * pow(d * y * y + 1, p - 2, p) % p):
        point = (x, y)
        for _ in range(3):
            point = doubled(*point)
        found.append(point == (0, 1))
    return any(found)


def test_openssl_would_take_a_signature_that_anyone_can_make() -> None:
    """Why they are refused: under the neutral point, R = s·B verifies for whatever message."""
    neutral = PublicKey((1).to_bytes(32, "little"))
    forged = neutral + bytes(32)  # s = 0
    for message in (b"anything", b"at all"):
        verify_signature(neutral, message, forged)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_refuses_other_lengths(length: int) -> None:
    with pytest.raises(KeyFileError, match="32 bytes"):
        public_from_bytes(bytes(length))


# --- files that are none

_OTHERS = {
    "an RSA key": rsa.generate_private_key(65537, 2048),
    "an EC key": ec.generate_private_key(ec.SECP256R1()),
    "an Ed448 key": ed448.Ed448PrivateKey.generate(),
    "an X25519 key": x25519.X25519PrivateKey.generate(),
    "a DSA key": dsa.generate_private_key(1024),
}


@pytest.mark.parametrize("kind", _OTHERS)
def test_other_algorithms_are_refused_by_name(kind: str) -> None:
    key = _OTHERS[kind]
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for read in (lambda: SigningKey.from_pem(private), lambda: public_from_pem(public)):
        with pytest.raises(KeyFileError, match=f"{kind}; pfm-edge needs Ed25519.*keys new"):
            read()


def _openssh() -> bytes:
    key = _OTHERS["an EC key"]
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _traditional() -> bytes:
    key = _OTHERS["an RSA key"]
    encryption = BestAvailableEncryption(b"x")
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, encryption)


_BAD_PRIVATE: dict[str, tuple[bytes, bytes | None, str]] = {
    "wrong passphrase": (_ENCRYPTED, b"incorrect horse", "passphrase is wrong"),
    "passphrase missing": (_ENCRYPTED, None, "give its passphrase"),
    "passphrase empty": (_ENCRYPTED, b"", "1 to 1023 bytes"),
    "passphrase too long": (_ENCRYPTED, b"x" * 1024, "1 to 1023 bytes"),
    "passphrase not needed": (_PEM, b"x", "not encrypted"),
    "a public key": (public_to_pem(_KEY.public), None, "is a public key"),
    "an OpenSSH key": (_openssh(), None, "OPENSSH form"),
    "a traditional key": (_traditional(), b"x", "RSA form"),
    "a certificate": (b"-----BEGIN CERTIFICATE-----\nAAAA\n", None, "no private key"),
    "empty": (b"", None, "no private key"),
    "binary": (_SEED, None, "no private key"),
    "cut short": (_PEM[:60], None, "damaged"),
    "encrypted and cut short": (_ENCRYPTED[:90], b"x", "damaged"),
    "very long": (_PEM + b" " * 20_000, None, "no private key"),
}


@pytest.mark.parametrize(
    ("data", "passphrase", "message"), _BAD_PRIVATE.values(), ids=_BAD_PRIVATE.keys()
)
def test_private_files_that_are_refused(
    data: bytes, passphrase: bytes | None, message: str
) -> None:
    with pytest.raises(KeyFileError, match=message) as caught:
        SigningKey.from_pem(data, passphrase)
    assert "\n" not in str(caught.value)


_BAD_PUBLIC: dict[str, tuple[bytes, str]] = {
    "a private key": (_PEM, "is a private key"),
    "an encrypted private key": (_ENCRYPTED, "is a private key"),
    "empty": (b"", "no public key"),
    "raw": (_PUBLIC, "no public key"),
    "an OpenSSH key": (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA", "no public key"),
    "cut short": (public_to_pem(_KEY.public)[:60], "damaged"),
    "weak": (public_to_pem(PublicKey(bytes(32))), "anyone could sign"),
}


@pytest.mark.parametrize(("data", "message"), _BAD_PUBLIC.values(), ids=_BAD_PUBLIC.keys())
def test_public_files_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(KeyFileError, match=message) as caught:
        public_from_pem(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_passphrases_that_cannot_be_used(passphrase: bytes) -> None:
    with pytest.raises(KeyFileError, match="1 to 1023"):
        _KEY.to_pem(passphrase)


@given(st.integers(0, 200), st.integers(0, 200), st.binary(max_size=6), st.booleans())
def test_a_spoilt_file_gives_a_key_or_our_error(
    begin: int, skip: int, piece: bytes, private: bool
) -> None:
    good = _PEM if private else public_to_pem(_KEY.public)
    data = good[:begin] + piece + good[begin + skip :]
    try:
        SigningKey.from_pem(data) if private else public_from_pem(data)
    except KeyFileError as error:
        if re.search(r"\n", str(error)):
            pytest.fail("more than one line")
