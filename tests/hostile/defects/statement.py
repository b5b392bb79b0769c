"""Step 2 still: the texts in the metadata, down to the statement."""

import base64
import json
from collections.abc import Callable

from tests.hostile.defects.table import GOOD, defect, edited
from tests.support.containers import compact
from tests.support.forge import Forge


def _envelope(edit: Callable[[dict[str, object]], object]) -> Callable[[], bytes]:
    def forge() -> bytes:
        parts = Forge(GOOD)
        parts.state()
        edit(parts.envelope)
        return parts.spell_metadata(statement=compact(parts.envelope).decode())

    return forge


def _stated(edit: Callable[[str], str]) -> Callable[[], bytes]:
    def forge() -> bytes:
        parts = Forge(GOOD)
        return parts.spell_metadata(statement=edit(parts.metadata["statement"]))

    return forge


def _payload(edit: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    def forge() -> bytes:
        parts = Forge(GOOD)
        payload = base64.b64encode(edit(base64.b64decode(parts.envelope["payload"]))).decode()
        statement = compact({**parts.envelope, "payload": payload}).decode()
        return parts.spell_metadata(statement=statement)

    return forge


def _loosened(text: str) -> str:
    """Set the unused bits behind the last character of a base64 text that ends in one ``=``."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    assert len(body) % 4
    return body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + "=" * (-len(body) % 4)


def _with_padding(forge: Forge) -> str:
    """Return the payload, grown until its base64 needs padding."""
    while len(compact(forge.payload)) % 3 == 0:
        forge.payload["sequence"] = forge.payload["sequence"] * 10
    return base64.b64encode(compact(forge.payload)).decode()


def _loose_payload() -> bytes:
    parts = Forge(GOOD)
    envelope = {**parts.envelope, "payload": _loosened(_with_padding(parts))}
    return parts.spell_metadata(statement=compact(envelope).decode())


_TEXTS: dict[str, Callable[[], bytes]] = {
    "bundle_of_version_2": lambda: Forge(GOOD).spell_metadata(pfm_bundle="2"),
    "bundle_without_version": lambda: Forge(GOOD).spell_metadata(pfm_bundle=None),
    "metadata_unknown_key": lambda: Forge(GOOD).spell_metadata(extra="x"),
    "statement_missing": lambda: Forge(GOOD).spell_metadata(statement=None),
    "entries_missing": lambda: Forge(GOOD).spell_metadata(entries=None),
    "entries_no_json": lambda: Forge(GOOD).spell_metadata(entries="["),
    "entries_an_object": lambda: Forge(GOOD).spell_metadata(entries="{}"),
    "entries_with_white_space": lambda: Forge(GOOD).spell_metadata(
        entries=json.dumps(Forge(GOOD).texts())
    ),
    "entries_hold_a_number": lambda: Forge(GOOD).spell_metadata(entries="[1]"),
    "entries_nested": lambda: Forge(GOOD).spell_metadata(entries='[["x"]]'),
    "envelope_no_json": _stated(lambda text: text[1:]),
    "envelope_with_white_space": _stated(lambda text: text.replace(",", ", ", 1)),
    "envelope_key_twice": _stated(
        lambda text: text.replace('"signatures":[]', '"signatures":[],"signatures":[]')
    ),
    "envelope_without_signatures": _envelope(lambda envelope: envelope.pop("signatures")),
    "envelope_with_an_unknown_key": _envelope(lambda envelope: envelope.update(x=1)),
    "envelope_of_another_type": _envelope(
        lambda envelope: envelope.update(payloadType="application/json")
    ),
    "envelope_signed": _envelope(
        lambda envelope: envelope.update(signatures=[{"keyid": "a", "sig": "AA=="}])
    ),
    "envelope_signatures_null": _envelope(lambda envelope: envelope.update(signatures=None)),
    "payload_empty": _envelope(lambda envelope: envelope.update(payload="")),
    "payload_a_number": _envelope(lambda envelope: envelope.update(payload=1)),
    "payload_with_a_line_end": _envelope(
        lambda envelope: envelope.update(payload=f"{envelope['payload']}\n")
    ),
    "payload_with_a_stray_character": _envelope(
        lambda envelope: envelope.update(payload=f"!{envelope['payload']}")
    ),
    "payload_not_ascii": _envelope(
        lambda envelope: envelope.update(payload=f"é{envelope['payload']}")
    ),
    "payload_with_loose_bits": _loose_payload,
}
for _name, _forge in _TEXTS.items():

    def _forged(_forge: Callable[[], bytes] = _forge) -> bytes:
        return _forge()

    _forged.__name__ = _name
    defect(2)(_forged)

# Step 4: the payload is read when its signatures are known to verify.
_PAYLOADS: dict[str, Callable[[], bytes]] = {
    "payload_no_utf8": _payload(lambda payload: payload.replace(b"pfm", b"\xff\xfe\xfd", 1)),
    "payload_with_white_space": _payload(lambda payload: payload.replace(b",", b", ", 1)),
    "payload_key_twice": _payload(lambda payload: payload[:-1] + b',"sequence":1}'),
    "payload_nan": _payload(lambda payload: payload.replace(b'"epoch":1', b'"epoch":NaN')),
}
for _name, _forge in _PAYLOADS.items():

    def _repaid(_forge: Callable[[], bytes] = _forge) -> bytes:
        return _forge()

    _repaid.__name__ = _name
    defect(4)(_repaid)

_STATED: dict[str, dict[str, object]] = {
    "statement_of_another_format": {"format": "pfm-bundle/2"},
    "statement_with_an_unknown_key": {"comment": "x"},
    "statement_with_an_escape_sequence_for_a_key": {"\x1b[2J\n": 1},
    "statement_with_a_key_of_a_megabyte": {"x" * 2**20: 1},
    "statement_model_id_malformed": {"model_id": "sha256:00"},
    "statement_model_id_a_number": {"model_id": 1},
    "statement_without_manifests": {"manifests": []},
    "statement_manifest_twice": {"manifests": ["sha256:" + "0" * 64] * 2},
    "statement_manifests_out_of_order": {"manifests": ["sha256:" + "1" * 64, "sha256:" + "0" * 64]},
    "statement_epoch_zero": {"epoch": 0},
    "statement_epoch_is_true": {"epoch": True},
    "statement_sequence_negative": {"sequence": -1},
    "statement_sequence_beyond_2_to_53": {"sequence": 2**53},
    "statement_time_without_zone": {"issued_at": "2026-01-02T03:04:05"},
    "statement_time_with_offset": {"issued_at": "2026-01-02T03:04:05+00:00"},
    "statement_time_in_february_30": {"issued_at": "2026-02-30T03:04:05Z"},
    "statement_time_in_arabic_digits": {"issued_at": "٢٠٢٦-01-02T03:04:05Z"},
    "statement_without_inputs": {"inputs": []},
    "statement_inputs_an_object": {"inputs": {}},
    "statement_input_twice": {"inputs": [{"name": "class_bias", "slice_shape": []}] * 2},
    "statement_input_of_zero_size": {"inputs": [{"name": "class_bias", "slice_shape": [0]}]},
    "statement_input_with_unknown_key": {
        "inputs": [{"name": "class_bias", "slice_shape": [], "dtype": "F32"}]
    },
    "statement_digest_twice": {"entry_digests": ["0" * 64] * 2},
    "statement_digests_out_of_order": {"entry_digests": ["1" * 64, "0" * 64]},
    "statement_digest_in_upper_case": {"entry_digests": ["A" * 64]},
    "statement_digest_with_prefix": {"entry_digests": ["sha256:" + "0" * 64]},
    "statement_lists_10001_digests": {"entry_digests": [f"{n:064x}" for n in range(10_001)]},
}
for _name, _change in _STATED.items():

    def _restate(forge: Forge, _change: dict[str, object] = _change) -> None:
        forge.payload.update(_change)

    edited(4, _name, _restate, seal=False)
