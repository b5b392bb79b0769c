"""Tensor files made by hand, so that a test can spell what our writer refuses to.

Independent of the code under test on purpose; ``json`` is all it needs::

    data = container({"__metadata__": {}}, b"")
    header, payload = split(data)
"""

import json
from typing import Any


def container(header: Any, data: bytes, *, pad: bool = True) -> bytes:
    """Spell a tensor file: a header as JSON (or as the bytes given), and the data."""
    text = header if isinstance(header, bytes) else compact(header)
    if pad:
        text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a tensor file."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header, data[8 + length :]


def compact(value: Any) -> bytes:
    """Spell JSON as the format does."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")
