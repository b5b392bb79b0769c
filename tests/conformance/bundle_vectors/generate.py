"""Golden vectors of the bundle format: files, and a JSON that says what a reader must make of them.

``vectors.json`` is written for other implementations; docs/bundle-format.md is the specification.
The bytes are those of our writer and of the forger that the hostile tests use, and a test keeps
them as they are. After a deliberate change of the format::

    python -m tests.conformance.bundle_vectors.generate
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pfm_edge_runtime.bundle import Bundle, Expectation, Place, TrustedKeys
from pfm_edge_runtime.keys import SigningKey, key_id, public_from_bytes
from tests.conformance.bundle_vectors.example import PAGE, page
from tests.hostile.defects.complete import DEFECTS, DEVICE_DEFECTS
from tests.hostile.defects.device import MANAGED, TWO_OF_TWO
from tests.hostile.defects.table import FIRST_USE, GOOD
from tests.support.forge import ISSUER, SECOND, STRANGER, public_bytes, raw_pem
from tests.support.tiny_package import build_bundle

FOLDER = Path(__file__).parent

# A few of the hostile bundles for each step; all of them would be a few hundred files.
REJECTED = (
    "empty_file",
    "seven_bytes",
    "header_of_16_mib_and_one",
    "one_byte_short",
    "one_byte_long",
    "header_padded_by_eight_more",
    "header_padded_in_front",
    "tensor_declared_twice",
    "metadata_key_twice",
    "tensors_overlap",
    "tensors_with_a_hole",
    "size_of_5000_digits",
    "size_overflows_64_bits",
    "tensor_named_like_a_path",
    "dtype_f16",
    "envelope_key_twice",
    "payload_with_loose_bits",
    "signature_key_under_two_ids",
    "signatures_out_of_order",
    "signature_keyid_of_another_key",
    "key_that_anyone_signs_for_neutral",
    "sig_with_loose_bits",
    "unsigned_where_a_key_is_trusted",
    "signed_by_a_stranger",
    "signed_by_one_of_two_that_are_needed",
    "signature_over_the_payload_alone",
    "signature_with_s_beyond_the_order",
    "signed_then_raised",
    "signature_of_a_stranger_broken",
    "first_use_with_a_broken_signature",
    "bundle_of_another_model",
    "bundle_of_another_manifest",
    "package_with_other_slice_shapes",
    "payload_nan",
    "statement_epoch_is_true",
    "statement_digests_out_of_order",
    "epoch_below_the_floor",
    "sequence_below_the_floor",
    "another_statement_at_the_floor",
    "entry_padded",
    "entry_of_another_bundle",
    "entries_reordered",
    "entry_twice",
    "label_not_in_normal_form",
    "label_of_the_next",
    "signed_then_relabelled",
    "rows_dropped_with_entries_kept",
    "row_doubled_at_the_end",
    "entry_dropped_with_rows_kept",
    "rows_swapped",
    "row_with_negative_zeros",
    "signed_then_swapped_rows",
    "value_nan",
    "value_signalling_nan",
    "retained_class_dropped",
    "retained_class_dropped_in_place_of_a_recorded_one",
    "class_back_that_was_never_there",
)

_ISSUER, _SECOND = (SigningKey.from_pem(raw_pem(each)) for each in (ISSUER, SECOND))


def files() -> dict[str, bytes]:
    """Return every file of the vectors by its name, ``vectors.json`` among them."""
    made: dict[str, bytes] = {}
    accepted, rejected = [], []
    for name, (bundle, expectation) in _good().items():
        made[f"accepted/{name}.safetensors"] = data = bundle.to_bytes()
        accepted.append(_accepted(name, data, expectation))
    for name in REJECTED:
        step, data, expectation = _bad(name)
        made[f"rejected/{name}.safetensors"] = data
        rejected.append(_described(f"rejected/{name}", data, expectation) | {"step": step})
    index = {
        "format": "pfm-bundle-vectors/1",
        "keys": {
            name: {
                "seed": each.private_bytes_raw().hex(),
                "public": public_bytes(each).hex(),
                "keyid": key_id(public_from_bytes(public_bytes(each))),
            }
            for name, each in (("issuer", ISSUER), ("second", SECOND), ("stranger", STRANGER))
        },
        "accepted": accepted,
        "rejected": rejected,
    }
    made["vectors.json"] = (json.dumps(index, indent=1, ensure_ascii=False) + "\n").encode()
    return made


def _good() -> dict[str, tuple[Bundle, Expectation]]:
    unsigned = Bundle.from_bytes(GOOD)
    signed = unsigned.signed_by(_ISSUER)
    ids, digests = signed.class_ids, signed.entry_digests
    place = Place(1, 1, signed.statement_digest)
    had = replace(MANAGED, floor=place, absences={place.statement: frozenset(digests[1:2])})
    forgot = replace(had, tombstones=frozenset(ids[1:2]))
    none = replace(FIRST_USE, trust=TrustedKeys(0, frozenset()))
    labels = ('say "hi"', "naïve café", "back\\slash", "дом 👩‍🚀")
    return {
        "unsigned_on_first_use": (unsigned, FIRST_USE),
        "unsigned_where_nobody_is_trusted": (unsigned, none),
        "signed": (signed, MANAGED),
        "signed_on_first_use": (signed, FIRST_USE),
        "signed_by_two": (signed.signed_by(_SECOND), TWO_OF_TWO),
        "signed_with_labels_of_every_kind": (
            build_bundle(b"{}", labels).signed_by(_ISSUER),
            MANAGED,
        ),
        "redacted_before_it_was_installed": (signed.without(ids[:1]), MANAGED),
        "redacted_as_the_device_left_it": (signed.without(ids[1:2]), forgot),
        "redacted_to_nothing": (signed.without(ids), MANAGED),
        "restored_from_a_backup": (signed, forgot),
        "at_the_floor": (signed.without(ids[1:2]), had),
    }


def _bad(name: str) -> tuple[int, bytes, Expectation]:
    if name in DEFECTS:
        step, forge = DEFECTS[name]
        return step, forge(), FIRST_USE
    step, forge_for = DEVICE_DEFECTS[name]
    return step, *forge_for()


def _accepted(name: str, data: bytes, expectation: Expectation) -> dict[str, Any]:
    """Say what a reader finds, computed from parts of a bundle that no device has looked at."""
    bundle = Bundle.from_bytes(data)
    gone = [each for each in bundle.class_ids if each in expectation.tombstones]
    purged = [
        [class_id, digest]
        for class_id, digest in zip(bundle.class_ids, bundle.entry_digests, strict=True)
        if class_id in gone
    ]
    left = bundle.without(gone)
    return _described(f"accepted/{name}", data, expectation) | {
        "statement": bundle.statement_digest,
        "epoch": bundle.statement.epoch,
        "sequence": bundle.statement.sequence,
        "signers": sorted(each.public.hex() for each in bundle.envelope.signatures),
        "class_ids": list(left.class_ids),
        "labels": list(left.labels),
        "entry_digests": list(left.entry_digests),
        "absent": sorted(set(bundle.statement.entry_digests) - set(left.entry_digests)),
        "purged": purged,
        "rewritten_sha256": hashlib.sha256(left.to_bytes()).hexdigest(),
    }


def _described(stem: str, data: bytes, known: Expectation) -> dict[str, Any]:
    trust, floor = known.trust, known.floor
    return {
        "file": f"{stem}.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "device": {
            "model_id": known.binding.model_id,
            "manifest": known.binding.manifest_digest,
            "inputs": [[name, list(shape)] for name, shape in known.binding.inputs],
            "trust": trust
            and {"threshold": trust.threshold, "keys": sorted(each.hex() for each in trust.keys)},
            "floor": floor and [floor.epoch, floor.sequence, floor.statement],
            "tombstones": sorted(known.tombstones),
            "absences": {each: sorted(gone) for each, gone in known.absences.items()},
        },
    }


if __name__ == "__main__":
    for folder in ("accepted", "rejected"):
        for stale in (FOLDER / folder).glob("*"):
            stale.unlink()
        (FOLDER / folder).mkdir(exist_ok=True)
    for name, data in files().items():
        (FOLDER / name).write_bytes(data)
    PAGE.write_text(page(), encoding="utf-8")
