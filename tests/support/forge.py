"""A forger of bundles: takes a good one apart, lets a test spoil a part, and spells it again.

It knows the format from its specification and uses none of the code under test. ``seal`` makes
the digests right again, so that a defect is found by the step that is there for it and not by an
earlier one::

    forge = Forge(good)
    forge.tensors["class_bias"][0] = np.nan
    forge.seal()
    forge.sign(ISSUER)
    forge.spell()
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.containers import compact, container, split

PAYLOAD_TYPE = "application/vnd.pfm-edge.bundle+json"
# Three private keys, always the same: Ed25519 signatures are reproducible.
ISSUER, SECOND, STRANGER = (
    Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2, 3)
)


class Forge:
    """The parts of a bundle, all of them open to change."""

    def __init__(self, data: bytes) -> None:
        self.header, payload = split(data)
        self.metadata: dict[str, Any] = self.header.pop("__metadata__")
        self.envelope = json.loads(self.metadata["statement"])
        self.payload = json.loads(base64.b64decode(self.envelope["payload"]))
        self.entries = [self._parts(text) for text in json.loads(self.metadata["entries"])]
        self.tensors = {
            name: np.frombuffer(
                payload, "<f4", int(np.prod(each["shape"])), each["data_offsets"][0]
            )
            .reshape(each["shape"])
            .copy()
            for name, each in self.header.items()
        }

    def seal(self) -> None:
        """Recompute the row digests and what the statement lists."""
        for row, parts in enumerate(self.entries):
            digest = hashlib.sha256()
            for each in self.payload["inputs"]:
                digest.update(self.tensors[each["name"]][row].tobytes())
            parts[3] = digest.hexdigest()
        self.relist()

    def relist(self, texts: Sequence[str] | None = None) -> None:
        """Let the statement list these entries; as they are now, if there is no other spelling."""
        spelt = self.texts() if texts is None else texts
        digests = {hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in spelt}
        self.payload["entry_digests"] = sorted(digests)

    def texts(self) -> list[str]:
        """Spell the entries."""
        return [base64url(compact(parts)) for parts in self.entries]

    def state(self) -> None:
        """Spell the statement into the metadata."""
        self.envelope["payload"] = base64.b64encode(compact(self.payload)).decode()
        self.metadata["statement"] = compact(self.envelope).decode("utf-8", "surrogatepass")

    def sign(self, *signers: Ed25519PrivateKey, kind: str = PAYLOAD_TYPE) -> None:
        """Sign the payload as it is now; to be called last."""
        self.sign_bytes(compact(self.payload), *signers, kind=kind)

    def sign_bytes(
        self, payload: bytes, *signers: Ed25519PrivateKey, kind: str = PAYLOAD_TYPE
    ) -> None:
        """Sign a payload that is spelt in another way."""
        message = pae(kind, payload)
        made = [signature(public_bytes(each), each.sign(message)) for each in signers]
        self.envelope["signatures"] = sorted(made, key=lambda each: each["public"])

    def declare(self) -> bytes:
        """Declare the tensors in the header; return their data."""
        self.header, chunks, offset = {}, [], 0
        for name, tensor in sorted(self.tensors.items()):
            end = offset + tensor.nbytes
            shape = list(tensor.shape)
            self.header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
            chunks.append(tensor.tobytes())
            offset = end
        return b"".join(chunks)

    def spell(self) -> bytes:
        """Spell the whole file from the parts."""
        self.state()
        self.metadata["entries"] = compact(self.texts()).decode("utf-8", "surrogatepass")
        data = self.declare()
        return container({"__metadata__": self.metadata, **self.header}, data)

    def spell_metadata(self, **changed: str | None) -> bytes:
        """Spell the file with metadata of the test's own; ``None`` leaves a key out."""
        _, data = split(self.spell())
        metadata = {**self.metadata, **changed}
        kept = {key: text for key, text in metadata.items() if text is not None}
        return container({"__metadata__": kept, **self.header}, data)

    @staticmethod
    def _parts(text: str) -> list[Any]:
        parts: list[Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return parts


def base64url(data: bytes) -> str:
    """Spell base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def pae(kind: str, payload: bytes) -> bytes:
    """Spell what DSSE signs."""
    return f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload


def public_bytes(signer: Ed25519PrivateKey) -> bytes:
    """Return the raw public key."""
    return signer.public_key().public_bytes_raw()


def signature(public: bytes, value: bytes) -> dict[str, str]:
    """Spell a signature object."""
    key = {"keytype": "ed25519", "keyval": {"public": public.hex()}, "scheme": "ed25519"}
    return {
        "keyid": hashlib.sha256(compact(key)).hexdigest(),
        "public": public.hex(),
        "sig": base64.b64encode(value).decode(),
    }


def raw_pem(signer: Ed25519PrivateKey) -> bytes:
    """Return the private key as PEM."""
    return signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
