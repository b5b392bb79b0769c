"""Steps 3, 4, 5 and 11: bundles that are well formed, and not what this device may use."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pfm_edge_runtime.bundle import (
    Bundle,
    ClassId,
    Expectation,
    Place,
    StatementDigest,
    TrustedKeys,
)
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.keys import public_from_bytes
from pfm_edge_runtime.manifest import ModelId
from tests.hostile.defects.rows import set_value, swap_rows
from tests.hostile.defects.table import DEVICE_DEFECTS, FIRST_USE, GOOD
from tests.support.containers import compact
from tests.support.forge import (
    ISSUER,
    PAYLOAD_TYPE,
    SECOND,
    STRANGER,
    Forge,
    pae,
    public_bytes,
    signature,
)

_ORDER = 2**252 + 27742317777372353535851937790883648493  # of the base point: RFC 8032, 5.1


def _trusting(threshold: int, *signers: Ed25519PrivateKey) -> Expectation:
    keys = frozenset(public_from_bytes(public_bytes(each)) for each in signers)
    return replace(FIRST_USE, trust=TrustedKeys(threshold, keys))


MANAGED = _trusting(1, ISSUER)
TWO_OF_TWO = _trusting(2, ISSUER, SECOND)


def enter(step: int, name: str, edit: Callable[[Forge], object], expectation: Expectation) -> None:
    """Enter a defect that an edit of the parts makes, for a device that knows this."""

    def forge() -> tuple[bytes, Expectation]:
        parts = Forge(GOOD)
        edit(parts)
        return parts.spell(), expectation

    assert name not in DEVICE_DEFECTS
    DEVICE_DEFECTS[name] = (step, forge)


# --- Step 3: the signatures


def _signed(*signers: Ed25519PrivateKey, kind: str = PAYLOAD_TYPE) -> Callable[[Forge], None]:
    return lambda forge: forge.sign(*signers, kind=kind)


def _over(message: Callable[[bytes], bytes]) -> Callable[[Forge], None]:
    """Sign something else than DSSE says."""

    def edit(forge: Forge) -> None:
        made = ISSUER.sign(message(compact(forge.payload)))
        forge.envelope["signatures"] = [signature(public_bytes(ISSUER), made)]

    return edit


def _changed(edit: Callable[[bytearray], object]) -> Callable[[Forge], None]:
    """Sign, and change the bytes of the signature."""

    def spoil(forge: Forge) -> None:
        value = bytearray(ISSUER.sign(pae(PAYLOAD_TYPE, compact(forge.payload))))
        edit(value)
        forge.envelope["signatures"] = [signature(public_bytes(ISSUER), bytes(value))]

    return spoil


def _flip(byte: int, bit: int = 0) -> Callable[[bytearray], None]:
    def edit(value: bytearray) -> None:
        value[byte] ^= 1 << bit

    return edit


def _add_the_order(value: bytearray) -> None:
    s = int.from_bytes(value[32:], "little") + _ORDER  # the same equation holds for it
    value[32:] = s.to_bytes(32, "little")


def _restated(**fields: object) -> Callable[[Forge], None]:
    """Sign, and change the payload."""

    def edit(forge: Forge) -> None:
        forge.sign(ISSUER)
        forge.payload.update(fields)

    return edit


def _unlisted(forge: Forge) -> None:
    forge.sign(ISSUER)
    del forge.entries[0]
    forge.tensors = {name: tensor[1:] for name, tensor in forge.tensors.items()}
    forge.relist()


def _swap_values(forge: Forge) -> None:
    forge.sign(ISSUER, SECOND)
    first, second = forge.envelope["signatures"]
    first["sig"], second["sig"] = second["sig"], first["sig"]


def _with_a_broken_second(forge: Forge) -> None:
    forge.sign(ISSUER, STRANGER)
    for each in forge.envelope["signatures"]:
        if each["public"] == public_bytes(STRANGER).hex():
            each["sig"] = signature(b"", bytes(64))["sig"]


def _with_the_sign_flipped(forge: Forge) -> None:
    """Give the signature of the trusted key to the same point with the other x: another key."""
    forge.sign(ISSUER)
    public = bytearray(public_bytes(ISSUER))
    public[31] ^= 0x80
    made = ISSUER.sign(pae(PAYLOAD_TYPE, compact(forge.payload)))
    forge.envelope["signatures"].append(signature(bytes(public), made))
    forge.envelope["signatures"].sort(key=lambda each: str(each["public"]))


_SIGNATURES: dict[str, tuple[Callable[[Forge], object], Expectation]] = {
    "unsigned_where_a_key_is_trusted": (lambda forge: None, MANAGED),
    "signed_by_a_stranger": (_signed(STRANGER), MANAGED),
    "signed_by_one_of_two_that_are_needed": (_signed(ISSUER), TWO_OF_TWO),
    "signed_by_one_that_is_needed_and_a_stranger": (_signed(ISSUER, STRANGER), TWO_OF_TWO),
    "signature_over_the_payload_alone": (_over(lambda payload: payload), MANAGED),
    "signature_over_a_digest": (_over(lambda payload: digest_of(payload).encode()), MANAGED),
    "signature_over_another_type": (_signed(ISSUER, kind="application/json"), MANAGED),
    "signature_over_another_version_of_pae": (
        _over(lambda payload: pae(PAYLOAD_TYPE, payload).replace(b"DSSEv1", b"DSSEv2")),
        MANAGED,
    ),
    "signature_over_a_length_that_lies": (
        _over(lambda payload: pae(PAYLOAD_TYPE, payload + b" ")[:-1]),
        MANAGED,
    ),
    "signature_over_another_bundle": (
        _over(lambda payload: pae(PAYLOAD_TYPE, payload.replace(b'"epoch":1', b'"epoch":2'))),
        MANAGED,
    ),
    "signature_over_nothing": (_over(lambda payload: b""), MANAGED),
    "signature_of_zeros": (
        _changed(lambda value: value.__setitem__(slice(64), bytes(64))),
        MANAGED,
    ),
    "signature_with_a_bit_of_r_flipped": (_changed(_flip(0)), MANAGED),
    "signature_with_the_sign_of_r_flipped": (_changed(_flip(31, 7)), MANAGED),
    "signature_with_a_bit_of_s_flipped": (_changed(_flip(32)), MANAGED),
    "signature_with_s_beyond_the_order": (_changed(_add_the_order), MANAGED),
    "signature_halves_swapped": (
        _changed(lambda value: value.__setitem__(slice(64), value[32:] + value[:32])),
        MANAGED,
    ),
    "signatures_swapped": (_swap_values, TWO_OF_TWO),
    "signature_of_a_stranger_broken": (_with_a_broken_second, MANAGED),
    "signature_counted_for_the_negated_key": (_with_the_sign_flipped, MANAGED),
    "signed_then_raised": (_restated(epoch=2), MANAGED),
    "signed_then_moved_to_another_model": (_restated(model_id="sha256:" + "0" * 64), MANAGED),
    "signed_then_given_another_manifest": (_restated(manifests=["sha256:" + "0" * 64]), MANAGED),
    "signed_then_redacted_with_its_digest": (_unlisted, MANAGED),
    "signed_then_made_no_json": (_restated(epoch=None), MANAGED),
    "first_use_with_a_broken_signature": (_changed(_flip(5)), FIRST_USE),
    "first_use_with_one_broken_of_two": (_with_a_broken_second, FIRST_USE),
    "unmanaged_with_a_broken_signature": (
        _changed(_flip(5)),
        replace(FIRST_USE, trust=TrustedKeys(0, frozenset())),
    ),
}
for _name, (_edit, _expectation) in _SIGNATURES.items():
    enter(3, _name, _edit, _expectation)


# --- Step 4: the package. The issuer's signature is good; it says something else.


def _issued(**fields: object) -> Callable[[Forge], None]:
    def edit(forge: Forge) -> None:
        forge.payload.update(fields)
        forge.sign(ISSUER)

    return edit


_OTHERS: dict[str, dict[str, Any]] = {
    "bundle_of_another_model": {"model_id": "sha256:" + "0" * 64},
    "bundle_of_another_manifest": {"manifests": ["sha256:" + "0" * 64, "sha256:" + "1" * 64]},
    "statement_signed_but_of_another_format": {"format": "pfm-bundle/2"},
    "statement_signed_but_without_time": {"issued_at": ""},
}
for _name, _fields in _OTHERS.items():
    enter(4, _name, _issued(**_fields), MANAGED)

_OTHER_PACKAGES = {
    "package_of_another_model": replace(MANAGED.binding, model_id=ModelId("sha256:" + "1" * 64)),
    "package_with_another_manifest": replace(MANAGED.binding, manifest_digest=digest_of(b"[]")),
    "package_with_fewer_inputs": replace(MANAGED.binding, inputs=MANAGED.binding.inputs[1:]),
    "package_with_other_slice_shapes": replace(
        MANAGED.binding, inputs=(("prompt_values", (4, 2)), *MANAGED.binding.inputs[1:])
    ),
}
for _name, _binding in _OTHER_PACKAGES.items():
    enter(4, _name, _signed(ISSUER), replace(MANAGED, binding=_binding))


# --- Step 5: the floor

_FLOOR = replace(MANAGED, floor=Place(3, 5, StatementDigest("0" * 64)))
_PLACES = {
    "epoch_below_the_floor": (2, 5),
    "epoch_below_the_floor_with_a_higher_sequence": (2, 2**53 - 1),
    "sequence_below_the_floor": (3, 4),
    "another_statement_at_the_floor": (3, 5),
}
for _name, (_epoch, _sequence) in _PLACES.items():
    enter(5, _name, _issued(epoch=_epoch, sequence=_sequence), _FLOOR)
enter(
    5,
    "the_same_classes_stated_a_second_later_at_the_floor",
    _issued(issued_at="2026-01-02T03:04:06Z"),
    replace(MANAGED, floor=Place(1, 1, Bundle.from_bytes(GOOD).statement_digest)),
)


# --- Steps 6 to 9: a good signature covers the statement, and the statement covers the rest.


def _salted_anew(forge: Forge) -> None:
    forge.sign(ISSUER)
    forge.entries[0][0] = "f" * 32


def _relabelled(forge: Forge) -> None:
    forge.sign(ISSUER)
    forge.entries[0][2], forge.entries[1][2] = forge.entries[1][2], forge.entries[0][2]


def _reordered(forge: Forge) -> None:
    forge.sign(ISSUER)
    swap_rows(forge)
    forge.entries[:2] = forge.entries[1::-1]


def _swapped(forge: Forge) -> None:
    forge.sign(ISSUER)
    swap_rows(forge)


def _not_finite(forge: Forge) -> None:
    set_value(float("nan"))(forge)
    forge.seal()
    forge.sign(ISSUER)


enter(6, "signed_then_salted_anew", _salted_anew, MANAGED)
enter(6, "signed_then_relabelled", _relabelled, MANAGED)
enter(6, "signed_then_reordered", _reordered, MANAGED)
enter(8, "signed_then_swapped_rows", _swapped, MANAGED)
enter(9, "signed_by_an_issuer_who_states_nan", _not_finite, MANAGED)


# --- Step 11: the absences that the device recorded

_GOOD = Bundle.from_bytes(GOOD)
_IDS, _DIGESTS = _GOOD.class_ids, _GOOD.entry_digests


def _recorded(*rows: int, tombstones: tuple[int, ...] = ()) -> Expectation:
    """Return what a device knows that had the bundle, without the entries of these rows."""
    return replace(
        MANAGED,
        floor=Place(1, 1, _GOOD.statement_digest),
        tombstones=frozenset(ClassId(_IDS[row]) for row in tombstones),
        absences={_GOOD.statement_digest: frozenset(_DIGESTS[row] for row in rows)},
    )


def _without(*rows: int) -> Callable[[Forge], None]:
    def edit(forge: Forge) -> None:
        forge.sign(ISSUER)
        kept = [row for row in range(len(forge.entries)) if row not in rows]
        forge.entries = [forge.entries[row] for row in kept]
        forge.tensors = {name: tensor[kept] for name, tensor in forge.tensors.items()}

    return edit


_ABSENCES: dict[str, tuple[Callable[[Forge], None], Expectation]] = {
    "retained_class_dropped": (_without(1), _recorded()),
    "every_class_dropped": (_without(0, 1, 2, 3), _recorded()),
    "retained_class_dropped_beside_a_forgotten_one": (
        _without(0, 2),
        _recorded(0, tombstones=(0,)),
    ),
    "retained_class_dropped_while_another_is_purged": (_without(2), _recorded(tombstones=(0,))),
    "retained_class_dropped_in_place_of_a_recorded_one": (_without(1), _recorded(2)),
    "class_back_that_was_never_there": (_without(), _recorded(3)),
    "class_back_while_another_is_purged": (_without(), _recorded(0, 3, tombstones=(0,))),
}
for _name, (_edit, _expectation) in _ABSENCES.items():
    enter(11, _name, _edit, _expectation)
