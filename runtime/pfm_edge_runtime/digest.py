"""How pfm-edge writes a SHA-256: ``"sha256:"`` and 64 lower-case hexadecimal digits.

Owns the spelling, so that a manifest, a statement and a report can be compared as text::

    digest_of(manifest_bytes)        # "sha256:9f86d0…"
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from pfm_edge_runtime.store import without_waiting

__all__ = ["HEX64", "digest_of", "file_digest", "is_digest"]

_CHUNK_BYTES = 2**20

HEX64 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as ``"sha256:<64 hex>"``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_digest(path: Path, report: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file, of whatever size; of what is no regular file, words.

    Args:
        path: The file.
        report: Is told how many bytes more were read.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb", opener=without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return "no regular file"
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            report(len(chunk))
    return f"sha256:{digest.hexdigest()}"


def is_digest(text: str) -> bool:
    """Tell whether ``text`` is spelt as a digest is: prefix, lower case, full length."""
    return _DIGEST.fullmatch(text) is not None
