"""Where receipts go: a server that takes posts, or a directory.

Owns both ways, behind one call for one receipt::

    with open_receiver("https://fleet.example/receipts", device_id, options, meter) as send:
        send("<class id>-12.json", text)
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

from pfm_edge_runtime.errors import ConfigError, UpdateError
from pfm_edge_runtime.ota._proxies import split_credentials
from pfm_edge_runtime.ota._transport import BudgetError, Meter, TryAgainError
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.source import is_url
from pfm_edge_runtime.store import write_atomic

__all__ = ["RECEIPT_TYPE", "Send", "open_receiver", "require_receiver"]

RECEIPT_TYPE = "application/vnd.in-toto+json"
"""Media type of a receipt that is posted."""

Send: TypeAlias = Callable[[str, bytes], None]
"""Sends one receipt: the name of its file, and its text."""


@contextmanager
def open_receiver(place: str, device: str, options: UpdateOptions, meter: Meter) -> Iterator[Send]:
    """Open where receipts go.

    Args:
        place: A URL, or a directory that exists.
        device: Id of the device's key: several devices may share a directory.
        options: As for the update.
        meter: Counts.

    Raises:
        UpdateError: There is no such directory.
        FetchError: From sending: the receipt did not arrive.
        ConfigError: The URL is none that can be used, or of no server.
        StorageError: From sending: the disk refused.
    """
    if is_url(place):
        from pfm_edge_runtime.ota._http import HttpTransport  # noqa: PLC0415 (heavy)

        with closing(HttpTransport(place, options, meter)) as transport:

            def post(_: str, text: bytes) -> None:
                try:
                    transport.post(text, RECEIPT_TYPE)
                except BudgetError as error:  # the next update has a budget of its own
                    raise TryAgainError(f"receipts wait for the next update: {error}") from error

            yield post
        return
    directory = _directory(place)

    def write(name: str, text: bytes) -> None:
        # By what it says, too: two copies of one device must not write over each other's.
        stem, digest = name.removesuffix(".json"), hashlib.sha256(text).hexdigest()
        write_atomic(directory / f"{device}-{stem}-{digest[:8]}.json", text)

    yield write


def require_receiver(place: str) -> None:
    """Require that a place is a URL of a server or a directory's name.

    Whether the server or directory is there is not asked: one that is away must hold up no order
    to forget.

    Raises:
        ConfigError: It is a URL that cannot be used.
    """
    if is_url(place):
        split_credentials(place)
    elif "://" in place:
        raise ConfigError("receipts go to an http:// or https:// URL, or to a directory")


def _directory(place: str) -> Path:
    require_receiver(place)
    directory = Path(place)
    if not directory.is_dir():
        raise UpdateError(f"{directory} is no directory, and receipts wait: make it, or mount it")
    return directory
