"""The outbox: receipts that are on their way to whoever asked for them.

Owns the files in ``state/ota/outbox`` and how they leave it. They are made from the ledger, and
made again whenever they are missing; a receipt that is sent twice is the same text twice::

    outbox = Outbox(cache, device)
    outbox.fill()
    outbox.deliver(lambda name, text: post(text))
    outbox.waiting

A receipt's file is ``<class id>-<number in the ledger>.json``. Which were sent is in ``sent.json``,
for the key that the device had then: nobody can sign a receipt again under a key that is gone.
"""

# ruff: noqa: PTH105, PTH108 (system calls by name: the fault tests count them)

import os
from collections.abc import Callable
from contextlib import suppress

from pfm_edge_runtime._disk import mapped_errors, sibling
from pfm_edge_runtime._strict_json import JsonLimits, JsonValue, StrictJsonError, canonical, parse
from pfm_edge_runtime.errors import FetchError
from pfm_edge_runtime.ota._cache import Cache
from pfm_edge_runtime.ota._transport import MissingFileError, TryAgainError
from pfm_edge_runtime.ota.stopping import StoppedError
from pfm_edge_runtime.receipts import make_receipt
from pfm_edge_runtime.state import AbsentRecord, DeviceState, ErasedRecord

__all__ = ["OUTBOX_FOLDER", "Outbox", "receipt_name"]

OUTBOX_FOLDER = "outbox"
_SENT_FILE = f"{OUTBOX_FOLDER}/sent.json"
_MOST_REFUSALS = 3
_MOST_SENT_BYTES = 2**20
_MOST_RECEIPT_BYTES = 2**16


def receipt_name(record: AbsentRecord | ErasedRecord) -> str:
    """Return the name of a receipt's file."""
    return f"{record.class_id}-{record.number}.json"


class Outbox:
    """The receipts of one device that nobody has yet.

    Args:
        cache: The directory of the device's updates.
        device: The device's memory.

    Attributes:
        delivered: How many receipts went so far.
    """

    def __init__(self, cache: Cache, device: DeviceState) -> None:
        self._cache = cache
        self._device = device
        self._through, self._beyond = self._read_sent()
        self.delivered = 0
        self._records: list[AbsentRecord | ErasedRecord] = []

    @property
    def waiting(self) -> int:
        """How many receipts are here."""
        return len(self._records)

    def fill(self) -> None:
        """Write every receipt of the ledger that was not sent, as far as it is not here.

        Raises:
            StorageError: The disk refused.
            StateError: The ledger, or the device's key, cannot be read.
        """
        memory = self._device.refresh()
        self._records = [
            each
            for each in memory.receipts(after=self._through)
            if each.number not in self._beyond and each.device == self._device.device
        ]
        for each in self._records:
            name = f"{OUTBOX_FOLDER}/{receipt_name(each)}"
            if not _is_whole(self._cache.read(name, _MOST_RECEIPT_BYTES)):
                self._write(name, make_receipt(each, self._device))

    def deliver(self, send: Callable[[str, bytes], None]) -> None:
        """Send what is here, one by one, in the ledger's order.

        One that the other side does not take must not hold the others up; a few in a row say that
        it takes none.

        Args:
            send: Gets a receipt's file name and text, and raises if it does not arrive.

        Raises:
            PfmEdgeError: What ``send`` raised; those that arrived are gone from here.
            StorageError: The disk refused.
        """
        gone: list[AbsentRecord | ErasedRecord] = []
        refusals: list[FetchError] = []  # in a row
        refused: FetchError | None = None
        try:
            for each in self._records:
                refusal = self._refusal(send, each)
                if refusal is None:
                    gone.append(each)
                    refusals.clear()
                    continue
                refused = refused or refusal
                refusals.append(refusal)
                if len(refusals) == _MOST_REFUSALS:
                    break
        finally:
            self._take_out(gone)
        if refused is not None:
            raise refused

    def _refusal(
        self, send: Callable[[str, bytes], None], record: AbsentRecord | ErasedRecord
    ) -> FetchError | None:
        """Send one; return why the other side does not take this one, if it does not."""
        try:
            send(receipt_name(record), self._text(record))
        except (MissingFileError, StoppedError, TryAgainError):
            raise
        except FetchError as error:
            return error
        return None

    def _text(self, record: AbsentRecord | ErasedRecord) -> bytes:
        text = self._cache.read(f"{OUTBOX_FOLDER}/{receipt_name(record)}", _MOST_RECEIPT_BYTES)
        return text or make_receipt(record, self._device).encode("ascii")

    def _take_out(self, gone: list[AbsentRecord | ErasedRecord]) -> None:
        """Remember what was sent, then remove it: a crash in between sends it once more."""
        self.delivered += len(gone)
        if not gone:
            return
        numbers = {each.number for each in gone}
        self._records = [each for each in self._records if each.number not in numbers]
        if not self._records:
            self._through, self._beyond = max(numbers | self._beyond), set()
        else:
            self._through = min(each.number for each in self._records) - 1
            self._beyond = {n for n in self._beyond | numbers if n > self._through}
        value: dict[str, JsonValue] = {
            "device": self._device.device,
            "through": self._through,
            "beyond": [*sorted(self._beyond)],
        }
        self._cache.write(_SENT_FILE, canonical(value))
        for each in gone:
            with suppress(OSError):
                os.unlink(self._cache.directory / OUTBOX_FOLDER / receipt_name(each))

    def _read_sent(self) -> tuple[int, set[int]]:
        data = self._cache.read(_SENT_FILE, _MOST_SENT_BYTES)
        if data is None:
            return 0, set()
        with suppress(StrictJsonError):
            match parse(data, JsonLimits(max_bytes=_MOST_SENT_BYTES), floats=False):
                case {"device": self._device.device, "through": int(through), "beyond": list(rest)}:
                    return through, {each for each in rest if isinstance(each, int)}
        return 0, set()

    def _write(self, name: str, text: str) -> None:
        """Write a receipt's file; not durably, for the ledger has all that it is made of."""
        path = self._cache.directory / name
        self._cache.make(path.parent)
        temporary = sibling(path)
        with mapped_errors(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                remaining = memoryview(text.encode("ascii"))
                while remaining:  # a disk that is nearly full takes a part
                    remaining = remaining[os.write(descriptor, remaining) :]
            finally:
                os.close(descriptor)
            os.replace(temporary, path)


def _is_whole(text: bytes | None) -> bool:
    """Tell whether a file is not one that a power cut has torn."""
    return text is not None and text.startswith(b"{") and text.endswith(b"}") and b"\0" not in text
