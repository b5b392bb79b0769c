"""What may become of a mutant, and what must not.

The judge reads an accepted mutant with the forger, which shares no code with the reader, and with
the safetensors library. An outcome is a short text; everything that must not happen is an
:class:`AssertionError`, and so is an exception that is not ours.
"""

import hashlib
import unicodedata

import numpy as np
import safetensors.numpy

from pfm_edge_runtime.bundle import Bundle, VerifiedBundle
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.errors import BundleError, BundleFormatError, VerificationError
from tests.fuzz.corpus import Seed
from tests.fuzz.mutations import Mutant
from tests.support.forge import Forge
from tests.support.tiny_package import INPUTS, LABELS, MODEL_ID

_SAME = "accepted: the same bytes"
_SIGNATURES = "accepted: the same content, other signatures"
_DROPPED = "accepted: classes dropped before it was installed"
_UNSIGNED = "accepted: unsigned, another statement about the same entries"
_RESTATED = "accepted: another bundle, well formed and signed again or unsigned"
_ANOTHER = "accepted: another seed"


def judge(seed: Seed, mutant: Mutant, seeds: list[Seed]) -> str:
    """Let the device of the seed verify the mutant; return what became of it.

    Raises:
        AssertionError: What must not happen happened.
    """
    try:
        found = VerifiedBundle.from_bytes(bytearray(mutant.data), seed.device)
    except BundleError as error:
        return _refusal(error)
    bundle = Bundle.from_bytes(mutant.data)
    assert bundle.to_bytes() == mutant.data, "accepted, and written in another way"
    assert found.to_bytes() == bundle.without([each for each, _ in found.purged]).to_bytes()
    assert not seed.device.tombstones & set(found.class_ids), "a forgotten class is back"
    if mutant.data == seed.data:
        return _SAME
    forge = Forge(mutant.data)
    _require_well_formed(forge, mutant.data)
    if mutant.data in {each.data for each in seeds}:
        return _ANOTHER
    return _RESTATED if mutant.restated else _compared(seed, forge)


def _refusal(error: BundleError) -> str:
    message = str(error)
    assert type(error) in {BundleFormatError, VerificationError}
    assert message.startswith(f"step {error.step}: "), message
    assert message.isprintable(), message
    assert len(message) < 500, message
    assert not any(label in message for label in LABELS), message
    return f"refused by step {error.step}"


def _compared(seed: Seed, forge: Forge) -> str:
    """Compare with the seed: nobody who may change anything did so."""
    good = Forge(seed.data)
    rows = [good.entries.index(each) for each in forge.entries]
    assert forge.texts() == [good.texts()[row] for row in rows], "other entries"
    for name, tensor in forge.tensors.items():
        assert tensor.tobytes() == good.tensors[name][rows].tobytes(), "other rows"
    if forge.envelope["payload"] != good.envelope["payload"]:
        assert not seed.signed, "another statement under a good signature"
        return _UNSIGNED
    if len(rows) != len(good.entries):
        assert not seed.installed, "a class of an installed bundle was dropped"
        return _DROPPED
    return _SIGNATURES


def _require_well_formed(forge: Forge, data: bytes) -> None:
    """Check all that makes a bundle, once more and in another way."""
    stated = forge.payload
    assert stated["model_id"] == MODEL_ID
    assert digest_of(b"{}") in stated["manifests"]
    shapes = {each["name"]: tuple(each["slice_shape"]) for each in stated["inputs"]}
    assert shapes == dict(INPUTS)
    ids = [class_id for _, class_id, _, _ in forge.entries]
    labels = [label for _, _, label, _ in forge.entries]
    assert ids == sorted(set(ids))
    assert len(set(labels)) == len(labels)
    assert labels == [unicodedata.normalize("NFC", label) for label in labels]
    for row, (text, parts) in enumerate(zip(forge.texts(), forge.entries, strict=True)):
        assert hashlib.sha256(text.encode()).hexdigest() in stated["entry_digests"]
        stored = b"".join(forge.tensors[each["name"]][row].tobytes() for each in stated["inputs"])
        assert hashlib.sha256(stored).hexdigest() == parts[3]
    read = safetensors.numpy.load(data)
    assert read.keys() == forge.tensors.keys() == shapes.keys()
    for name, tensor in read.items():
        assert tensor.shape == (len(ids), *shapes[name])
        assert np.isfinite(tensor).all()
