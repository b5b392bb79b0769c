"""Step 2 still: signatures that are malformed, whoever made them."""

import base64
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.hostile.defects.table import GOOD, defect
from tests.support.containers import compact
from tests.support.forge import ISSUER, SECOND, Forge, public_bytes, signature

_PRIME = 2**255 - 19


def _signed() -> Forge:
    parts = Forge(GOOD)
    parts.sign(ISSUER, SECOND)
    return parts


def _signatures(edit: Callable[[list[Any]], object]) -> Callable[[], bytes]:
    """Spoil the list of two good signatures, in place or by returning another value."""

    def forge() -> bytes:
        parts = _signed()
        listed = parts.envelope["signatures"]
        changed = edit(listed)
        parts.envelope["signatures"] = listed if changed is None else changed
        parts.state()
        return parts.spell_metadata(statement=compact(parts.envelope).decode())

    return forge


def _first(**fields: object) -> Callable[[], bytes]:
    return _signatures(lambda listed: listed[0].update(fields))


def _key(public: bytes) -> Callable[[], bytes]:
    """Put a key that must not be taken beside a good one, spelt and named as it should be."""
    return _signatures(
        lambda listed: sorted(
            [listed[0], signature(public, bytes(64))], key=lambda each: str(each["public"])
        )
    )


def _text(old: str, new: str) -> Callable[[], bytes]:
    def forge() -> bytes:
        parts = _signed()
        parts.state()
        spelt = parts.metadata["statement"]
        assert old in spelt
        return parts.spell_metadata(statement=spelt.replace(old, new, 1))

    return forge


def _loose_bits(listed: list[Any]) -> None:
    # 64 bytes end in two characters that carry twelve bits for eight: four are loose.
    sig = listed[0]["sig"]
    assert sig.endswith("==")
    listed[0]["sig"] = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="


def _lacking(key: str) -> Callable[[list[Any]], object]:
    def edit(listed: list[Any]) -> None:
        del listed[0][key]

    return edit


def _of_a_receipt() -> bytes:
    parts = Forge(GOOD)
    parts.sign(ISSUER, kind="application/vnd.in-toto+json")
    parts.envelope["payloadType"] = "application/vnd.in-toto+json"
    return parts.spell()


def _p256() -> bytes:
    key = generate_private_key(SECP256R1()).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _point(y: int) -> bytes:
    return y.to_bytes(32, "little")


_SIGNATURES: dict[str, Callable[[], bytes]] = {
    "signatures_an_object": _signatures(lambda listed: listed[0]),
    "signatures_hold_text": _signatures(lambda listed: listed.append("x")),
    "signatures_hold_an_empty_object": _signatures(lambda listed: listed.append({})),
    "signatures_out_of_order": _signatures(lambda listed: listed.reverse()),
    "signatures_17": _signatures(
        lambda listed: [signature(bytes([n, *[7] * 31]), bytes(64)) for n in range(17)]
    ),
    "signature_key_twice": _signatures(lambda listed: [listed[0], listed[0]]),
    "signature_key_under_two_ids": _signatures(
        lambda listed: [listed[0], {**listed[0], "keyid": "0" * 64}]
    ),
    "signature_keyid_of_another_key": _signatures(
        lambda listed: listed[0].update(keyid=listed[1]["keyid"])
    ),
    "signature_keyid_empty": _first(keyid=""),
    "signature_keyid_a_number": _first(keyid=1),
    "signature_without_keyid": _signatures(_lacking("keyid")),
    "signature_without_public_key": _signatures(_lacking("public")),
    "signature_without_sig": _signatures(_lacking("sig")),
    "signature_with_a_certificate": _first(cert="-----BEGIN CERTIFICATE-----"),
    "signature_of_a_named_algorithm": _first(alg="none"),
    "signature_field_twice": _text('{"keyid":', '{"keyid":"","keyid":'),
    "signature_with_white_space": _text('"sig":"', '"sig": "'),
    "key_in_upper_case": _signatures(
        lambda listed: listed[0].update(public=listed[0]["public"].upper())
    ),
    "key_of_31_bytes": _key(public_bytes(ISSUER)[:31]),
    "key_of_33_bytes_p256": _key(_p256()),
    "key_of_57_bytes_ed448": _key(bytes(57)),
    "key_in_wide_digits": _first(public="\uff10" * 64),
    "key_null": _first(public=None),
    "key_that_anyone_signs_for_neutral": _key(_point(1)),
    "key_that_anyone_signs_for_order_2": _key(_point(_PRIME - 1)),
    "key_that_anyone_signs_for_order_4": _key(_point(0)),
    "key_that_anyone_signs_for_order_8": _key(
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    ),
    "key_that_anyone_signs_for_with_a_sign": _key(_point(1 + 2**255)),
    "key_in_a_second_spelling": _key(_point(_PRIME + 3)),
    "sig_of_63_bytes": _first(sig=base64.b64encode(bytes(63)).decode()),
    "sig_of_65_bytes": _first(sig=base64.b64encode(bytes(65)).decode()),
    "sig_empty": _first(sig=""),
    "sig_a_number": _first(sig=0),
    "sig_with_loose_bits": _signatures(_loose_bits),
    "sig_without_padding": _signatures(
        lambda listed: listed[0].update(sig=listed[0]["sig"].rstrip("="))
    ),
    "sig_in_the_url_alphabet": _first(sig=base64.urlsafe_b64encode(b"\xff" * 64).decode()),
    "sig_in_hexadecimal": _first(sig="0" * 128),
    "sig_with_a_line_end": _signatures(
        lambda listed: listed[0].update(sig=listed[0]["sig"] + "\n")
    ),
    "envelope_of_a_receipt": _of_a_receipt,
}
for _name, _forge in _SIGNATURES.items():

    def _forged(_forge: Callable[[], bytes] = _forge) -> bytes:
        return _forge()

    _forged.__name__ = _name
    defect(2)(_forged)
