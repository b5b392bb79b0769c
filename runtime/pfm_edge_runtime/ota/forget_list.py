"""The forget list: every class id that the issuer ever ordered to forget, signed.

Owns the file's form. It is cumulative and a DSSE envelope signed by the forget keys. Deletion only
shrinks, so authenticity is enough: it holds from any path, with any clock, however old it is, and
applying one twice changes nothing::

    text = ForgetList(1, issued_at, rows).seal([forget_key])
    for row in ForgetList.parse(text, trust).rows:
        row.class_id, row.order

Payload, canonical JSON::

    {"format":"pfm-forget/1","issued_at":"2026-11-24T10:00:00Z","number":1,
     "rows":[["<class id>","<order id>","request","2026-11-24T10:00:00Z"]]}

A row holds nobody's words: ids are random or numbers, a reason is a code.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pfm_edge_runtime._strict_json import (
    JsonLimits,
    JsonValue,
    StrictJsonError,
    canonical,
    parse_canonical,
)
from pfm_edge_runtime.bundle import ClassId, TrustedKeys, is_class_id
from pfm_edge_runtime.dsse import Envelope
from pfm_edge_runtime.errors import ForgetListError, PfmEdgeError
from pfm_edge_runtime.keys import SigningKey, key_id
from pfm_edge_runtime.state import Order, is_time

__all__ = ["MAX_FORGET_LIST_BYTES", "PAYLOAD_TYPE", "REASONS", "ForgetList", "ForgetRow"]

PAYLOAD_TYPE = "application/vnd.pfm-edge.forget+json"
MAX_FORGET_LIST_BYTES = 2**25
"""Size above which no forget list is read: 100,000 rows have 18 MB."""

REASONS = ("consent", "error", "other", "request", "retention")
"""What a publisher may give as the reason of an order. A device takes any code that is one word."""

_FORMAT = "pfm-forget/1"
_MAX_ROWS = 100_000
_REASON = re.compile(r"[a-z][a-z-]{0,31}")
_FIELDS = 4
_LIMITS = JsonLimits(
    max_bytes=MAX_FORGET_LIST_BYTES,
    max_depth=3,
    max_containers=_MAX_ROWS + 2,
    max_values=_FIELDS * (_MAX_ROWS + 4),
)


@dataclass(frozen=True, slots=True)
class ForgetRow:
    """One order to forget one class.

    Attributes:
        class_id: The class.
        order_id: The order's own number or random id.
        reason: A code, one of :data:`REASONS` so far.
        time: When it was ordered, UTC to the second, as ``"2026-11-24T10:00:00Z"``.
    """

    class_id: ClassId
    order_id: str
    reason: str
    time: str

    def __post_init__(self) -> None:
        Order(self.order_id)
        well_formed = is_class_id(self.class_id) and _REASON.fullmatch(self.reason) is not None
        if not well_formed or not is_time(self.time):
            raise ForgetListError(
                "a row needs a class id, an order id, a reason of one word and a time in UTC"
            )


@dataclass(frozen=True, slots=True)
class ForgetList:
    """A forget list that is well formed.

    Attributes:
        number: How many lists were issued up to this one; the number only grows.
        issued_at: When, UTC to the second.
        rows: Ascending by class id, each class once.
        digest: SHA-256 of the file that it was read from, in hexadecimal; empty for a new one.
    """

    number: int
    issued_at: str
    rows: tuple[ForgetRow, ...]
    digest: str = ""

    def __post_init__(self) -> None:
        if type(self.number) is not int or self.number < 1 or not is_time(self.issued_at):
            raise ForgetListError("it has no number or no time")
        if len(self.rows) > _MAX_ROWS:
            raise ForgetListError(f"it has more than {_MAX_ROWS} rows")
        if any(one.class_id >= other.class_id for one, other in pairwise(self.rows)):
            raise ForgetListError("its rows must ascend by class id, and name each class once")

    @classmethod
    def parse(cls, text: bytes, trust: TrustedKeys | None) -> "ForgetList":
        """Read a forget list and verify who signed it.

        Args:
            text: The file.
            trust: Whose signatures count; ``None`` only for somebody who just wants to look.

        Raises:
            ForgetListError: It is none, is damaged, or not enough of the forget keys signed it.
        """
        try:
            envelope = Envelope.parse(
                text, payload_type=PAYLOAD_TYPE, max_bytes=MAX_FORGET_LIST_BYTES
            )
            if trust is not None:
                _require_signed(envelope, trust)
            value = parse_canonical(envelope.payload, _LIMITS)
            return cls._from_json(value, hashlib.sha256(text).hexdigest())
        except ForgetListError:
            raise
        except StrictJsonError as error:
            raise ForgetListError(f"it {error}") from error
        except PfmEdgeError as error:
            raise ForgetListError(str(error)) from error

    @classmethod
    def _from_json(cls, value: JsonValue, digest: str) -> "ForgetList":
        match value:
            case {
                "format": str(form),
                "issued_at": str(issued_at),
                "number": int(number),
                "rows": list(rows),
                **rest,
            } if form == _FORMAT and not rest:
                return cls(number, issued_at, tuple(_row(each) for each in rows), digest)
        raise ForgetListError(f"its payload is no {_FORMAT}")

    def seal(self, signers: Sequence[SigningKey]) -> bytes:
        """Write the file, signed by ``signers``.

        Raises:
            EnvelopeError: A key is there twice, or there are too many.
        """
        rows: list[JsonValue] = [
            [each.class_id, each.order_id, each.reason, each.time] for each in self.rows
        ]
        payload = canonical(
            {
                "format": _FORMAT,
                "issued_at": self.issued_at,
                "number": self.number,
                "rows": rows,
            }
        )
        return Envelope.seal(payload, PAYLOAD_TYPE, signers).text.encode("ascii")


def _row(value: JsonValue) -> ForgetRow:
    match value:
        case [str(class_id), str(order_id), str(reason), str(time)]:
            return ForgetRow(ClassId(class_id), order_id, reason, time)
    raise ForgetListError("a row is no array of class id, order id, reason and time")


def _require_signed(envelope: Envelope, trust: TrustedKeys) -> None:
    signers = envelope.signers()
    if len(signers & trust.keys) < max(trust.threshold, 1):
        names = ", ".join(f"{key_id(each)[:16]}…" for each in sorted(signers)) or "nobody"
        raise ForgetListError(
            f"it is signed by {names}: {max(trust.threshold, 1)} of this device's forget keys "
            "must have signed it"
        )
