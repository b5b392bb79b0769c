"""Base64 with one spelling for every value, in the two alphabets that our files use.

Owns the strictness that Python's ``base64`` lacks: no stray characters, no line breaks, padding
exactly where it belongs, and no bits beside the data::

    decode_base64url(encode_base64url(b"entry")) == b"entry"
"""

import base64
import binascii

__all__ = ["Base64Error", "decode_base64", "decode_base64url", "encode_base64", "encode_base64url"]


class Base64Error(ValueError):
    """A text breaks the strict rules; callers turn it into the exception of their format."""


def encode_base64(data: bytes) -> str:
    """Encode with the standard alphabet, padded."""
    return base64.b64encode(data).decode("ascii")


def encode_base64url(data: bytes) -> str:
    """Encode with the URL-safe alphabet, without padding."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def decode_base64(text: str) -> bytes:
    """Decode what :func:`encode_base64` writes, and nothing else.

    Raises:
        Base64Error: ``text`` is no such text.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Base64Error("base64 is malformed") from error
    if encode_base64(data) != text:
        raise Base64Error("base64 is not canonical")
    return data


def decode_base64url(text: str) -> bytes:
    """Decode what :func:`encode_base64url` writes, and nothing else.

    Raises:
        Base64Error: ``text`` is no such text.
    """
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    try:
        data = base64.b64decode(padded.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Base64Error("base64url is malformed") from error
    if encode_base64url(data) != text:
        raise Base64Error("base64url is not canonical")
    return data
