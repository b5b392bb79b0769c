"""Receipts: what a device states, under its key, about a class that it was told to forget.

Owns the statement's form. It is an in-toto Statement v1 in a DSSE envelope, which any library for
those reads; it is a function of one record and the device's key, so asking twice gives the same
text. The outcome is ``erased``, or ``absent`` where the class was not there::

    text = make_receipt(state.memory.erased(class_id), state)
    verify_receipt(text, public_from_pem(device_pub)).record.entry_digest

It says what the device's software states, and no more (claim level ``L0``): neither that nobody
kept a copy, nor that flash cells were rewritten.

Statement: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse_canonical,
)
from pfm_edge_runtime.dsse import Envelope
from pfm_edge_runtime.errors import EnvelopeError, SignatureError, StateError
from pfm_edge_runtime.keys import PublicKey, key_id
from pfm_edge_runtime.manifest import BUNDLE_FILE
from pfm_edge_runtime.state import AbsentRecord, DeviceState, ErasedRecord

__all__ = ["ReceiptFacts", "make_receipt", "verify_receipt"]

_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "urn:pfm-edge:receipt:1"
_CLAIM_LEVEL = "L0"
_STATEMENT_KEYS = {"_type", "subject", "predicateType", "predicate"}
_RECORDS: Mapping[str, Callable[[JsonValue, int, str], AbsentRecord | ErasedRecord]] = {
    AbsentRecord.kind: AbsentRecord.from_json,
    ErasedRecord.kind: ErasedRecord.from_json,
}
_LIMITS = JsonLimits(max_bytes=2**16, max_depth=5, max_containers=16)


@dataclass(frozen=True, slots=True)
class ReceiptFacts:
    """What a receipt states.

    Attributes:
        record: The record that it was made of, with its place in the ledger.
        claim_level: How much it claims: ``"L0"`` is the word of the device's software.
    """

    record: AbsentRecord | ErasedRecord
    claim_level: str

    @property
    def outcome(self) -> str:
        """What became of the class: ``"erased"``, or ``"absent"``: it was not there."""
        return self.record.kind


def make_receipt(record: AbsentRecord | ErasedRecord, state: DeviceState) -> str:
    """Return the receipt of a record of this device: the text of a DSSE envelope.

    Raises:
        StateError: The record was made under a key that the device has no longer, or it is not
            in the ledger.
        StorageError: The disk does not confirm that it has the record.
    """
    if not record.number or record.bundle is None:
        raise StateError("a record that is not in the ledger, or looked at nothing, has no receipt")
    if record.device != state.device:
        raise StateError(
            f"record {record.number} was made under key {record.device[:16]}…, which this device "
            "has no longer: its receipt cannot be signed again, the one given out then is valid"
        )
    state.confirm()  # whoever wrote it may have been killed before it was on the disk
    predicate = record.to_fields()
    bundle = predicate.pop("bundle")
    predicate["ledger"] = {"number": record.number, "head": record.digest}
    predicate["claim_level"] = _CLAIM_LEVEL
    predicate["outcome"] = record.kind
    statement: JsonValue = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": BUNDLE_FILE, "digest": {"sha256": bundle}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": predicate,
    }
    return Envelope.seal(canonical(statement), _PAYLOAD_TYPE, [state.signing_key()]).text


def verify_receipt(text: str | bytes, public: PublicKey) -> ReceiptFacts:
    """Verify a receipt.

    Args:
        text: The receipt; white space around it does not matter.
        public: The key of the device that should have made it, from its ``device.pub``.

    Raises:
        SignatureError: That device did not sign it, or it was altered.
        EnvelopeError: It is no receipt.
    """
    try:
        envelope = Envelope.parse(text.strip(), payload_type=_PAYLOAD_TYPE)
    except EnvelopeError as error:
        raise EnvelopeError(
            f"it is no receipt: {error}; give what pfm-device receipts show wrote"
        ) from error
    if public not in envelope.signers():
        signed = ", ".join(f"{each.key_id[:16]}…" for each in envelope.signatures) or "nobody"
        raise SignatureError(
            f"it is signed by {signed}, not by {key_id(public)[:16]}…: "
            "give the device.pub of the device that made it"
        )
    facts = _facts(envelope.payload)
    if facts.record.device != key_id(public):
        raise EnvelopeError("it speaks of another device than the one that signed it")
    return facts


def _facts(payload: bytes) -> ReceiptFacts:
    try:
        statement = parse_canonical(payload, _LIMITS)
        if not isinstance(statement, dict) or statement.keys() != _STATEMENT_KEYS:
            raise EnvelopeError("its payload is no in-toto statement")
        types = statement["_type"], statement["predicateType"]
        if types != (_STATEMENT_TYPE, _PREDICATE_TYPE):
            raise EnvelopeError("its statement is not about a class that was forgotten")
        return _receipt(statement["subject"], statement["predicate"])
    except (StateError, StrictJsonError) as error:
        raise EnvelopeError(f"its statement cannot be read: {error}") from error


def _receipt(subject: JsonValue, predicate: JsonValue) -> ReceiptFacts:
    fields = dict(predicate) if isinstance(predicate, dict) else {}
    kind = _RECORDS.get(str(fields.pop("outcome", None)))
    match subject, fields.pop("ledger", None), fields.pop("claim_level", None):
        case (
            [{"name": str(), "digest": {"sha256": str(bundle)}}],
            {"number": int(number), "head": str(head)},
            str(level),
        ) if "bundle" not in fields and kind is not None:
            return ReceiptFacts(kind({**fields, "bundle": bundle}, number, head), level)
    raise EnvelopeError("its statement names no outcome, bundle or place in a ledger")
