"""A repository on a server: HTTP and HTTPS, against servers and networks of any kind.

Owns the policy of every request. Each has a deadline for all of it, headers and body; a limit on
its length; and leave to be redirected within its own host only. Proxies are those of the
environment (``https_proxy``, ``no_proxy``)::

    with HttpTransport("https://updates.example/public", options, Meter()) as transport:
        transport.read("metadata/timestamp.json", most=2**14)

What the network fails at is tried again after a pause drawn at random from zero to a bound that
doubles: a thousand devices that lost one server do not come back as one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from pfm_edge_runtime.errors import FetchError
from pfm_edge_runtime.ota._answers import Body, require_success, require_taken
from pfm_edge_runtime.ota._connections import Deadline, Sockets, explained, open_pool
from pfm_edge_runtime.ota._proxies import proxy_for, split_credentials
from pfm_edge_runtime.ota._transport import Meter, MissingFileError, Transport, TryAgainError
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.recording import software

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

__all__ = ["HttpTransport"]

_T = TypeVar("_T")

_SLOWEST_RATE = 4096  # bytes a second: the least that a link must give
_MOST_REDIRECTS = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds; the bound of the first pause, and of any
_LONGEST_REST = 60.0  # seconds that are waited where a server says so; else the update ends
_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_LEFT_BYTES = 2**14  # of an answer that is read to keep its connection, and dropped
_PORTS = {"http": 80, "https": 443}
_NO_FILE = "the server has no such file ({status}); is it a publisher's public folder?"
_NO_RECEIVER = "the server takes nothing there ({status}); is it where receipts go?"


class HttpTransport(Transport):
    """Reads a repository from a server, and posts receipts.

    Args:
        url: Of the repository's public folder, or of where receipts go.
        options: Timeout, attempts, and what waits and draws.
        meter: Counts.

    Raises:
        ConfigError: The URL, or a proxy's, cannot be used.
        UpdateError: The extra ``ota`` is not installed.
    """

    def __init__(self, url: str, options: UpdateOptions, meter: Meter) -> None:
        self._base, credentials = split_credentials(url)
        self.name = self._base
        self.is_fresh = True
        self.meter = meter
        self._options = options
        self._sockets = Sockets()
        self._pool = open_pool(self._sockets, proxy_for(self._base))
        self._headers = {
            "User-Agent": software().replace(" ", "/"),
            "Accept-Encoding": "identity",  # lengths and hashes are those of the files
        }
        if credentials is not None:
            self._headers["Authorization"] = credentials

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def post(self, data: bytes, media_type: str) -> None:
        """Post something to the URL itself.

        Raises:
            FetchError: The server cannot be reached, or does not take it.
            BudgetError: It would cost more than is left.
        """

        def once() -> None:
            self.meter.require(len(data))
            self.meter.sent += len(data)
            seconds = self._seconds(len(data))
            with self._answered("POST", self._base, seconds, (data, media_type)) as response:
                require_success(self._base, response, missing=_NO_RECEIVER)
                self.meter.received += require_taken(self._base, response)

        self._attempt(once, None)

    def _read(self, name: str, most: int, attempts: int | None) -> bytes:
        # TUF's client quotes the names of roles itself.
        url = f"{self._base}/{quote(name, safe='/%')}"
        return self._attempt(lambda: self._get(url, most), attempts)

    def _attempt(self, once: Callable[[], _T], attempts: int | None) -> _T:
        most = self._options.attempts if attempts is None else attempts
        for number in range(most):
            try:
                return once()
            except TryAgainError as error:
                if number + 1 == most or error.after > _LONGEST_REST:
                    raise
                rest = error.after
            bound = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**number)
            self._options.pause(rest + bound * self._options.draw())
        raise AssertionError("the last attempt returns or raises")

    def _get(self, url: str, most: int) -> bytes:
        for _ in range(1 + _MOST_REDIRECTS):
            with self._answered("GET", url, self._seconds(most)) as response:
                if response.status not in _REDIRECTS:
                    require_success(url, response, missing=_NO_FILE)
                    return self._body(url, response, most)
                url = _redirected(url, response.headers.get("Location"))
        raise FetchError(f"{url} is redirected again and again: name the last address")

    @contextmanager
    def _answered(
        self, method: str, url: str, seconds: float, body: tuple[bytes, str] | None = None
    ) -> "Iterator[BaseHTTPResponse]":
        headers = self._headers if body is None else self._headers | {"Content-Type": body[1]}
        deadline = Deadline(self._sockets, seconds)
        with self._options.stopping.waiting(), explained(url, deadline):
            self.meter.requests += 1
            response = self._pool.urlopen(
                method,
                url,
                redirect=False,
                body=None if body is None else body[0],
                headers=headers,
                retries=False,
                preload_content=False,
                timeout=self._options.timeout,
            )
            try:
                yield response
            except MissingFileError:  # an everyday answer: there is no newer root
                self._release(response)
                raise
            except BaseException:
                response.close()  # whatever is still to come on this connection
                raise
            self._release(response)

    def _release(self, response: "BaseHTTPResponse") -> None:
        """Keep the connection, unless much is still to come on it."""
        left = response.length_remaining
        if left is None or left > _MOST_LEFT_BYTES:
            response.close()
            return
        self.meter.received += left
        response.drain_conn()
        response.release_conn()

    def _body(self, url: str, response: "BaseHTTPResponse", most: int) -> bytes:
        body = Body(url, response, most)
        if body.fits:
            self.meter.require(body.expected)
        for count in body.parts():
            self.meter.received += count
            self.meter.require(0)
            here = len(body.data)
            self._options.progress(here, max(body.expected, here))
        return bytes(body.data)

    def _seconds(self, most: int) -> float:
        """Return how long a request may take that moves so many bytes."""
        return self._options.timeout + most / _SLOWEST_RATE


def _redirected(url: str, location: str | None) -> str:
    """Return where a redirect within one host leads; from http to https is no other host.

    Raises:
        FetchError: It leads elsewhere.
    """
    try:
        target = urljoin(url, location or "")
        (scheme, host, port), (old_scheme, old_host, old_port) = _origin(target), _origin(url)
    except ValueError as error:
        raise FetchError(f"{url} is redirected to no address") from error
    upgraded = (old_scheme, scheme, old_port, port) == ("http", "https", 80, 443)
    if host != old_host or not (upgraded or (scheme, port) == (old_scheme, old_port)):
        raise FetchError(
            f"{url} is redirected to another host, which is refused: a network that wants a login "
            "first does that; else name the other address"
        )
    return target


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
