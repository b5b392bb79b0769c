"""docs/bundle-format.md: the worked example is true, by none of the code under test."""

import base64
import hashlib
import json
import re
import struct

import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pfm_edge_runtime.bundle import Bundle, BundleLimits
from pfm_edge_runtime.dsse import MAX_SIGNATURES
from tests.conformance.bundle_vectors.example import PAGE, example, page

_TEXT = PAGE.read_text(encoding="utf-8")


def _shown(name: str) -> str:
    found = re.search(rf"^{re.escape(name)}:\n  (.*)$", _TEXT, re.MULTILINE)
    assert found, name
    return found[1]


def _file() -> bytes:
    return bytes.fromhex("".join(re.findall(r"^[0-9a-f]{4}  ([0-9a-f]+)$", _TEXT, re.MULTILINE)))


def test_the_example_is_what_we_write() -> None:
    assert page() == _TEXT
    assert _file() == example()
    assert Bundle.from_bytes(_file()).to_bytes() == _file()


_ROWS = struct.pack("<2f", 1, -2)
_KIND = "application/vnd.pfm-edge.bundle+json"


def test_the_entry_of_the_example_follows_from_the_page() -> None:
    assert _shown("rows of the class (hex)") == _ROWS.hex()
    parts = ["00112233445566778899aabbccddeeff", "0123456789abcdef" * 2, "cat", _digest(_ROWS)]
    assert _shown("entry, decoded") == _compact(parts)
    string = base64.urlsafe_b64encode(_compact(parts).encode()).decode().rstrip("=")
    assert _shown("entry string") == string
    assert _shown("entry digest") == _digest(string.encode())


def test_the_statement_of_the_example_follows_from_the_page() -> None:
    payload = _compact(
        {
            "format": "pfm-bundle/1",
            "model_id": "sha256:" + "11" * 32,
            "manifests": ["sha256:" + _digest(b"{}")],
            "epoch": 1,
            "sequence": 1,
            "issued_at": "2026-01-02T03:04:05Z",
            "inputs": [{"name": "w", "slice_shape": [2]}],
            "entry_digests": [_shown("entry digest")],
        }
    )
    assert _shown("payload") == payload
    assert _shown("statement digest") == _digest(payload.encode())
    message = f"DSSEv1 {len(_KIND)} {_KIND} {len(payload)} {payload}".encode()
    assert message.decode().startswith(_shown("PAE, begin").rstrip("…"))
    key = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    public = key.public_key().public_bytes_raw().hex()
    assert _shown("public key") == public
    named = {"keytype": "ed25519", "keyval": {"public": public}, "scheme": "ed25519"}
    assert _shown("keyid") == _digest(_compact(named).encode())
    assert _shown("signature (hex)") == key.sign(message).hex()


def test_the_file_of_the_example_follows_from_the_page() -> None:
    signature = {
        "keyid": _shown("keyid"),
        "public": _shown("public key"),
        "sig": base64.b64encode(bytes.fromhex(_shown("signature (hex)"))).decode(),
    }
    envelope = {
        "payload": base64.b64encode(_shown("payload").encode()).decode(),
        "payloadType": _KIND,
        "signatures": [signature],
    }
    metadata = {
        "entries": _compact([_shown("entry string")]),
        "pfm_bundle": "1",
        "statement": _compact(envelope),
    }
    tensor = {"data_offsets": [0, 8], "dtype": "F32", "shape": [1, 2]}
    header = _compact({"__metadata__": metadata, "w": tensor}).encode()
    header += b" " * (-len(header) % 8)
    assert _shown("N") == f"{len(header)} = 0x{len(header):x}"
    assert _file() == struct.pack("<Q", len(header)) + header + _ROWS
    assert safetensors.numpy.load(_file())["w"].tolist() == [[1, -2]]


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    limits = BundleLimits()
    assert (limits.max_file_bytes, limits.max_header_bytes) == (2**30, 2**24)
    assert "8 bytes to 1 GiB, and N is at most 16 MiB" in _TEXT
    assert (limits.max_classes, MAX_SIGNATURES) == (10_000, 16)
    assert "at most 10,000" in _TEXT
    assert "at most 16 objects" in _TEXT
    assert (limits.max_tensors, limits.max_manifests, limits.max_rank) == (64, 64, 8)
    assert "`inputs` (1 to 64 objects" in _TEXT
    assert "`manifests` (1 to 64 of" in _TEXT
    assert "up to 7 sizes of 1 to 65536" in _TEXT
    assert f"1 to {limits.max_label_bytes} bytes" in _TEXT


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
