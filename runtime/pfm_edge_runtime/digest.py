"""How pfm-edge writes a SHA-256: ``"sha256:"`` and 64 lower-case hexadecimal digits.

Owns the spelling, so that a manifest, a statement and a report can be compared as text::

    digest_of(manifest_bytes)        # "sha256:9f86d0…"
"""

import hashlib
import re

__all__ = ["HEX64", "digest_of", "is_digest"]

HEX64 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as ``"sha256:<64 hex>"``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_digest(text: str) -> bool:
    """Tell whether ``text`` is spelt as a digest is: prefix, lower case, full length."""
    return _DIGEST.fullmatch(text) is not None
