"""Base64 with one spelling for every value, in the two alphabets that our files use.

Owns the strictness that Python's ``base64`` lacks: no stray characters, no line breaks, padding
exactly where it belongs, and no bits beside the data::

    decode_base64url(encode_base64url(b"entry")) == b"entry"
"""

import binascii

__all__ = ["Base64Error", "decode_base64", "decode_base64url", "encode_base64", "encode_base64url"]


class Base64Error(ValueError):
    """A text breaks the strict rules; callers turn it into the exception of their format."""


def encode_base64(data: bytes) -> str:
    """Encode with the standard alphabet, padded."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def encode_base64url(data: bytes) -> str:
    """Encode with the URL-safe alphabet, without padding."""
    return encode_base64(data).rstrip("=").replace("+", "-").replace("/", "_")


def decode_base64(text: str) -> bytes:
    """Decode what :func:`encode_base64` writes, and nothing else.

    Raises:
        Base64Error: ``text`` is no such text.
    """
    data = _decoded(text)
    if encode_base64(data) != text:
        raise Base64Error("base64 is not canonical")
    return data


def decode_base64url(text: str) -> bytes:
    """Decode what :func:`encode_base64url` writes, and nothing else.

    Raises:
        Base64Error: ``text`` is no such text.
    """
    data = _decoded(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise Base64Error("base64url is not canonical")
    return data


def _decoded(text: str) -> bytes:
    # Strict only about padding; the callers encode again, and that leaves one text for all bytes.
    try:
        return binascii.a2b_base64(text)
    except ValueError as error:  # also binascii.Error
        raise Base64Error("base64 is malformed") from error
