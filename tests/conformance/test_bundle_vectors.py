"""The golden vectors: what is stored is what we write, and we read it as ``vectors.json`` says."""

import hashlib
import json
from typing import Any

import pytest

from pfm_edge_runtime.bundle import (
    ClassId,
    EntryDigest,
    Expectation,
    ModelBinding,
    Place,
    StatementDigest,
    TrustedKeys,
    VerifiedBundle,
)
from pfm_edge_runtime.errors import BundleError
from pfm_edge_runtime.keys import public_from_bytes
from pfm_edge_runtime.manifest import ModelId
from tests.conformance.bundle_vectors.generate import FOLDER, files

_INDEX: dict[str, Any] = json.loads((FOLDER / "vectors.json").read_bytes())


def _expectation(device: dict[str, Any]) -> Expectation:
    trust, floor = device["trust"], device["floor"]
    return Expectation(
        binding=ModelBinding(
            ModelId(device["model_id"]),
            device["manifest"],
            tuple((name, tuple(shape)) for name, shape in device["inputs"]),
        ),
        trust=trust
        and TrustedKeys(
            trust["threshold"],
            frozenset(public_from_bytes(bytes.fromhex(each)) for each in trust["keys"]),
        ),
        floor=floor and Place(floor[0], floor[1], StatementDigest(floor[2])),
        tombstones={ClassId(each) for each in device["tombstones"]},
        absences={
            StatementDigest(statement): {EntryDigest(each) for each in gone}
            for statement, gone in device["absences"].items()
        },
    )


def _read(vector: dict[str, Any]) -> bytes:
    data = (FOLDER / vector["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == vector["sha256"]
    return data


def test_every_stored_byte_is_what_the_generator_makes() -> None:
    made = files()
    stored = {
        path.relative_to(FOLDER).as_posix(): path.read_bytes()
        for path in FOLDER.rglob("*")
        if path.suffix in {".json", ".safetensors"}
    }
    assert stored.keys() == made.keys()
    assert [name for name in made if made[name] != stored[name]] == []


def test_every_step_that_refuses_has_a_vector() -> None:
    assert {each["step"] for each in _INDEX["rejected"]} == {1, 2, 3, 4, 5, 6, 7, 8, 9, 11}


@pytest.mark.parametrize("vector", _INDEX["accepted"], ids=lambda vector: vector["file"])
def test_accepted(vector: dict[str, Any]) -> None:
    found = VerifiedBundle.from_bytes(_read(vector), _expectation(vector["device"]))
    assert {
        "statement": found.place.statement,
        "epoch": found.place.epoch,
        "sequence": found.place.sequence,
        "signers": sorted(each.hex() for each in found.signers),
        "class_ids": list(found.class_ids),
        "labels": list(found.labels),
        "entry_digests": list(found.entry_digests),
        "absent": sorted(found.absent),
        "purged": [list(each) for each in found.purged],
        "rewritten_sha256": hashlib.sha256(found.to_bytes()).hexdigest(),
    }.items() <= vector.items()


@pytest.mark.parametrize("vector", _INDEX["rejected"], ids=lambda vector: vector["file"])
def test_rejected(vector: dict[str, Any]) -> None:
    with pytest.raises(BundleError) as caught:
        VerifiedBundle.from_bytes(_read(vector), _expectation(vector["device"]))
    assert caught.value.step == vector["step"]
