"""The worked example of docs/bundle-format.md: the smallest signed bundle, and how it is shown.

``rendered()`` is the text between the two marks in that page; the generator puts it there, and a
test compares.
"""

import base64
import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from pfm_edge_runtime.bundle import Bundle, ClassId, Entry
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.manifest import ModelId
from tests.support.forge import ISSUER, pae, raw_pem

PAGE = Path(__file__).parents[3] / "docs" / "bundle-format.md"
_BEGIN = "<!-- example: tests/conformance/bundle_vectors/example.py writes this -->\n"
_END = "<!-- end of the example -->\n"
_COLUMNS = 32


def example() -> bytes:
    """Return the bytes of the example."""
    bundle = Bundle.build(
        model_id=ModelId("sha256:" + "11" * 32),
        manifest_digests=[digest_of(b"{}")],
        inputs=[("w", (2,))],
        entries=[
            Entry(
                class_id=ClassId("0123456789abcdef" * 2),
                label="cat",
                tensors={"w": np.array([1, -2], np.float32)},
                salt="00112233445566778899aabbccddeeff",
            )
        ],
        issued_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),  # noqa: UP017 (as 3.10 has it)
    )
    return bundle.signed_by(SigningKey.from_pem(raw_pem(ISSUER))).to_bytes()


def rendered() -> str:
    """Show the example: what is computed on the way, and the file."""
    data = example()
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    envelope = json.loads(metadata["statement"])
    (entry,) = json.loads(metadata["entries"])
    payload = base64.b64decode(envelope["payload"])
    steps = {
        "rows of the class (hex)": data[8 + length :].hex(),
        "entry, decoded": base64.urlsafe_b64decode(entry + "=" * (-len(entry) % 4)).decode(),
        "entry string": entry,
        "entry digest": hashlib.sha256(entry.encode()).hexdigest(),
        "payload": payload.decode(),
        "statement digest": hashlib.sha256(payload).hexdigest(),
        "PAE, begin": pae(envelope["payloadType"], payload)[:60].decode() + "…",
        "public key": envelope["signatures"][0]["public"],
        "keyid": envelope["signatures"][0]["keyid"],
        "signature (hex)": base64.b64decode(envelope["signatures"][0]["sig"]).hex(),
        "N": f"{length} = 0x{length:x}",
    }
    listed = "".join(f"{name}:\n  {value}\n" for name, value in steps.items())
    lines = [data[at : at + _COLUMNS] for at in range(0, len(data), _COLUMNS)]
    dump = "".join(f"{at * _COLUMNS:04x}  {line.hex()}\n" for at, line in enumerate(lines))
    return f"```text\n{listed}```\nThe file, {len(data)} bytes:\n```text\n{dump}```\n"


def page() -> str:
    """Return the page with the example as it is now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}{rendered()}{_END}{after}"
