"""Bundles that are large and malformed: what it takes to refuse one is a few times its header."""

import base64
import tracemalloc
from collections.abc import Callable

import pytest

from pfm_edge_runtime.bundle import Bundle, BundleLimits
from pfm_edge_runtime.errors import BundleFormatError
from tests.support.containers import compact, container

_SIZE = BundleLimits().max_header_bytes - 64
_TIMES = 8  # of the header: the text as bytes and as characters, and the parser's copies


def _filled(begin: bytes, piece: bytes, end: bytes) -> bytes:
    return begin + piece * ((_SIZE - len(begin) - len(end)) // len(piece)) + end


def _statement(text: bytes) -> bytes:
    metadata = {"pfm_bundle": "1", "entries": "[]", "statement": text.decode()}
    return compact({"__metadata__": metadata})


_HEADERS: dict[str, Callable[[], bytes]] = {
    "quotes": lambda: _filled(b"", b'"', b""),
    "empty strings": lambda: _filled(b"[", b'"",', b'""]'),
    "short strings": lambda: _filled(b"[", b'"ab",', b'""]'),
    "numbers": lambda: _filled(b"[", b"1,", b"1]"),
    "keys": lambda: b"{" + b",".join(b'"%07x":0' % n for n in range(_SIZE // 13)) + b"}",
    "closing brackets": lambda: _filled(b"[", b"]", b""),
    "backslashes": lambda: _filled(b'["', b"\\", b'"]'),
    "digits": lambda: _filled(b"[", b"9", b"]"),
    "one long string": lambda: _filled(b'{"__metadata__":{"pfm_bundle":"1","x":"', b"x", b'"}}'),
    "names": lambda: _filled(b"{", b'"a":{},', b'"b":{}}'),
    "statement of quotes": lambda: _statement(b"'" * (_SIZE // 2)),
    "payload of strings": lambda: _statement(
        b'{"payload":"'
        + base64.b64encode(b"[" + b'"",' * (_SIZE // 5) + b'""]')
        + b'","payloadType":"application/vnd.pfm-edge.bundle+json","signatures":[]}'
    ),
    "statement of strings": lambda: _statement(b"[" + b'"",' * (_SIZE // 6) + b'""]'),
}


@pytest.mark.parametrize("header", _HEADERS.values(), ids=_HEADERS.keys())
def test_memory_is_bounded(header: Callable[[], bytes]) -> None:
    data = bytearray(container(header(), b""))
    tracemalloc.start()
    try:
        with pytest.raises(BundleFormatError) as caught:
            Bundle.from_bytes(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.step in {2, 4}
    assert len(str(caught.value)) < 500
    assert peak < _TIMES * len(data), f"{peak / len(data):.1f} times"
