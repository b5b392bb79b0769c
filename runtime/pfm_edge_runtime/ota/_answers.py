"""What a server's answer is worth: its status, its body, and whether it is the server's at all.

Owns what is made of an answer that came. A network that wants a login answers in the server's
place, and a proxy may compress what it passes on, also where nobody asked for that::

    require_success(url, response, missing="no such file ({status})")
    body = Body(url, response, most=2**14)
    for count in body.parts():            # bytes that came over the wire, one part after the other
        meter.received += count
    body.data
"""

import zlib
from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from pfm_edge_runtime.errors import FetchError
from pfm_edge_runtime.ota._transport import MissingFileError, RefusedError, TryAgainError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["PROXY_LOGIN", "Body", "require_success", "require_taken"]

PROXY_LOGIN = (
    "cannot be reached: the proxy of the environment wants a user and a password, or others (407): "
    "set http_proxy and https_proxy to http://user:password@host:port"
)

_CHUNK_BYTES = 2**16
_SUCCESS = range(200, 300)
_TAKEN = {201, 202, 204}  # a network that wants a login answers with 200
_MISSING = {403, 404, 410}  # object stores answer 403 for what is not there
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_LOGIN = 401
_PROXY = 407
_PORTAL = 511  # RFC 6585: Network Authentication Required
_PAGE = (b"<!doctype html", b"<html")
_SPACE = b"\xef\xbb\xbf \t\r\n"
_BEGINNING_BYTES = 2**10
_MOST_DIGITS = 20  # of a length: more than any file has
_GZIP_WINDOW = 31  # zlib's word for gzip's own header
_LONGEST_REST = 86_400.0  # seconds that a server may ask to be left alone for
_PORTAL_HINT = "answers with a web page, as a network does that wants a login first"


def require_success(url: str, response: "BaseHTTPResponse", *, missing: str) -> None:
    """Require that a server did what it was asked.

    Args:
        url: What was asked for.
        response: The answer.
        missing: What to say where there is nothing, with ``{status}`` in it.

    Raises:
        FetchError: It did not; MissingFileError and TryAgainError say more.
        RefusedError: The server or the proxy wants a password.
    """
    status = response.status
    if status in _SUCCESS:
        return
    if status in _MISSING:
        raise MissingFileError(
            f"{url}: {missing.format(status=status)}",
            status=403 if status == 403 else 404,  # noqa: PLR2004 (what TUF's client knows)
        )
    if status == _PORTAL:
        raise FetchError(f"{url} {_PORTAL_HINT}")
    if status == _LOGIN:
        raise RefusedError(
            f"{url}: the server wants a user and a password, or others ({status}): give them in "
            "the URL, as https://user:password@host/folder"
        )
    if status == _PROXY:
        raise RefusedError(f"{url} {PROXY_LOGIN}")
    if status in _PASSING:
        raise TryAgainError(
            f"{url}: the server cannot answer just now ({status})", after=_rest(response)
        )
    raise FetchError(f"{url}: the server answers with status {status}")


def require_taken(url: str, response: "BaseHTTPResponse") -> int:
    """Require that it was the server that took what was posted, and no network's login page.

    Many servers say that their empty answer is HTML, so what counts is a page.

    Returns:
        Bytes of the answer that were read.

    Raises:
        FetchError: It is a page, which somebody in between may have given.
    """
    if response.status in _TAKEN or url.startswith("https:"):
        return 0
    beginning = next(response.stream(_BEGINNING_BYTES, decode_content=False), b"")
    if _is_page(beginning):
        raise FetchError(f"{url} {_PORTAL_HINT}")
    return len(beginning)


class Body:
    """The body of an answer, while it comes.

    Args:
        url: What was asked for.
        response: The answer.
        most: Bytes that the file may have.

    Attributes:
        data: The file, as far as it is here.
        expected: Bytes that will come over the wire, as the server says; 0: it does not.

    Raises:
        FetchError: It is packed in a way that nobody asked for.
    """

    def __init__(self, url: str, response: "BaseHTTPResponse", most: int) -> None:
        self.data = bytearray()
        self._url = url
        self._response = response
        self._most = self._most_wire = most
        self._unpack: zlib._Decompress | None = None
        self._is_page = "html" in response.headers.get("Content-Type", "").lower()
        stated = response.headers.get("Content-Length", "")
        self.expected = int(stated[:_MOST_DIGITS]) if stated.isdecimal() else 0
        packing = response.headers.get("Content-Encoding", "").strip().lower()
        if packing in {"gzip", "x-gzip"}:
            self._unpack = zlib.decompressobj(_GZIP_WINDOW)
            self._most_wire += most // 100 + _BEGINNING_BYTES  # what gzip may add
        elif packing not in {"", "identity"}:
            raise FetchError(
                f"{url} comes compressed ({packing[:20]}), which nobody asked for: a proxy does "
                "that; it must pass files on as they are"
            )

    @property
    def fits(self) -> bool:
        """Whether it may be what was asked for, by what the header says."""
        return self.expected <= self._most_wire and not self._is_page

    def parts(self) -> Iterator[int]:
        """Take it in; yield how many bytes came over the wire.

        Raises:
            FetchError: It is a web page, longer than it may be, or damaged.
        """
        wire = 0
        for chunk in self._response.stream(_CHUNK_BYTES, decode_content=False):
            wire += len(chunk)
            self.data += self._unpacked(chunk)
            if self._is_page or _is_page(self.data[:_BEGINNING_BYTES]):
                raise FetchError(f"{self._url} {_PORTAL_HINT}")
            self._require_room(max(self.expected, wire))
            yield len(chunk)
            if self._unpack is not None and self._unpack.eof:
                return
        self._require_room(max(self.expected, wire))  # also where nothing came
        if self._unpack is not None:
            raise TryAgainError(f"{self._url} broke off: the end of what is compressed is missing")

    def _require_room(self, wire: int) -> None:
        if len(self.data) > self._most or wire > self._most_wire:
            raise FetchError(f"{self._url} is longer than the {self._most} bytes that it may have")

    def _unpacked(self, chunk: bytes) -> bytes:
        if self._unpack is None:
            return chunk
        try:
            return self._unpack.decompress(chunk, self._most + 1 - len(self.data))
        except zlib.error as error:
            raise FetchError(f"{self._url} is compressed, and damaged: {error}") from error


def _is_page(beginning: bytes | bytearray) -> bool:
    return beginning.lstrip(_SPACE).lower().startswith(_PAGE)


def _rest(response: "BaseHTTPResponse") -> float:
    """Return for how many seconds the server wants to be left alone; 0 if it does not say."""
    stated = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(stated) if stated.isdecimal() else _until(stated, response)
    except (OverflowError, TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_REST)


def _until(date: str, response: "BaseHTTPResponse") -> float:
    """Return how long it is until a date, by the server's clock if it tells the time."""
    now = response.headers.get("Date")
    moments = [parsedate_to_datetime(each) for each in (date, now) if each]
    if len(moments) == 1:
        moments.append(datetime.now(timezone.utc))
    then, here = (each.replace(tzinfo=each.tzinfo or timezone.utc) for each in moments)
    return (then - here).total_seconds()
