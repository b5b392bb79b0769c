"""Connections that can be cut, and what went wrong with one, in a line.

Owns what is particular to ``urllib3``. It gives a time for each wait, not for all of them, so a
server that sends a byte now and then could hold a device for days; here a timer cuts every open
socket when the time for all of it is over::

    pool = open_pool(sockets, proxy=None)
    with explained(url, Deadline(sockets, 30.0)):
        response = pool.urlopen("GET", url, preload_content=False)
"""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pfm_edge_runtime.errors import ConfigError, FetchError, UpdateError
from pfm_edge_runtime.ota._answers import PROXY_LOGIN
from pfm_edge_runtime.ota._proxies import NO_PROXY_THAT_WORKS, Proxy
from pfm_edge_runtime.ota._transport import RefusedError, TryAgainError

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool, PoolManager
    from urllib3.exceptions import HTTPError

__all__ = ["Deadline", "Sockets", "explained", "open_pool"]

_OUT_OF_TIME = {9, 10}  # OpenSSL's X509_V_ERR: not yet valid, expired
_PROXY_STATUS = "407 "  # of an answer to CONNECT, as http.client tells of it


class Sockets:
    """The open sockets of one transport."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._cut = False

    def add(self, one: socket.socket) -> None:
        """Take a socket in; one that comes when the time is over is cut at once."""
        with self._lock:
            self._open = [each for each in self._open if each.fileno() >= 0]
            self._open.append(one)
            late = self._cut
        if late:
            self.cut()

    def cut(self) -> None:
        """End every transfer that is under way."""
        with self._lock:
            self._cut = True
            found = [*self._open]
        for each in found:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def begin(self) -> None:
        """Let sockets live again."""
        with self._lock:
            self._cut = False


class Deadline:
    """Cuts sockets when its time is over, unless the block has ended by then.

    Attributes:
        seconds: The time.
        has_passed: Whether it is over.
    """

    def __init__(self, sockets: Sockets, seconds: float) -> None:
        self.seconds = seconds
        self.has_passed = False
        self._sockets = sockets
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> "Deadline":
        self._sockets.begin()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _pass(self) -> None:
        self.has_passed = True
        self._sockets.cut()


@contextmanager
def explained(url: str, deadline: Deadline) -> Iterator[None]:
    """Hold a request to its deadline; turn what urllib3 raises into one line of ours.

    Raises:
        FetchError: The request failed.
        RefusedError: It failed in a way that a person must mend.
    """
    from urllib3.exceptions import HTTPError

    try:
        with deadline:
            yield
    except UpdateError:
        if not deadline.has_passed:
            raise
    except (HTTPError, OSError, ValueError) as error:  # ValueError: a length that is no number
        if not deadline.has_passed:
            raise _explanation(url, error) from error
    if deadline.has_passed:
        raise TryAgainError(
            f"{url} is too slow: it was given up after {deadline.seconds:.0f} seconds"
        )


def open_pool(sockets: Sockets, proxy: Proxy | None) -> "PoolManager":
    """Return a pool whose connections register their sockets.

    Raises:
        ConfigError: The proxy is none that can be used.
        UpdateError: The extra ``ota`` is not installed.
    """
    try:
        import urllib3
    except ImportError as error:
        raise UpdateError(
            "updates over the air need urllib3: pip install 'pfm-edge-runtime[ota]'"
        ) from error
    try:
        manager = (
            urllib3.PoolManager()
            if proxy is None
            else urllib3.ProxyManager(proxy.url, proxy_headers=proxy.headers)
        )
    except urllib3.exceptions.HTTPError as error:
        raise ConfigError(NO_PROXY_THAT_WORKS) from error
    manager.pool_classes_by_scheme = _pool_classes(sockets)
    return manager


def _pool_classes(sockets: Sockets) -> "dict[str, type[HTTPConnectionPool]]":
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            sockets.add(made)
            return made

    class Secure(HTTPSConnection):
        # While keys are exchanged there is only the socket below; TLS then takes it over.
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            self._below = made.dup()
            sockets.add(self._below)
            return made

        def connect(self) -> None:
            try:
                super().connect()
            finally:
                if below := vars(self).pop("_below", None):
                    below.close()
            if isinstance(self.sock, socket.socket):
                sockets.add(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _explanation(url: str, error: "HTTPError | OSError | ValueError") -> UpdateError:
    from urllib3 import exceptions

    host = urlsplit(url).hostname
    for each in _chain(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return RefusedError(f"{url} is not {host}, or not for now: {_distrust(each)}")
    match error:
        case exceptions.NameResolutionError():
            finding = f"cannot be reached: no network knows the name {host}"
        case exceptions.ProxyError() if _PROXY_STATUS in _cause(error):
            return RefusedError(f"{url} {PROXY_LOGIN}")
        case exceptions.ProxyError():
            finding = f"cannot be reached through the proxy: {_cause(error)}"
        case exceptions.SSLError():
            return FetchError(f"{url} cannot be reached by TLS: {_cause(error)}")
        case exceptions.NewConnectionError():
            finding = f"cannot be reached: {_cause(error)}"
        case exceptions.TimeoutError() | TimeoutError():
            finding = "does not answer in time"
        case exceptions.LocationValueError():
            return FetchError(f"{url} is no address of a server: name it as https://host/folder")
        case _:
            finding = f"broke off: {_cause(error)}"
    return TryAgainError(f"{url} {finding}")


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    """Say why a server's certificate is not trusted, and what may be wrong here."""
    reason = f"{error.verify_message} (it is {datetime.now(timezone.utc):%Y-%m-%d} here)"
    if error.verify_code in _OUT_OF_TIME:
        return f"{reason}; where that date is wrong, set this device's clock"
    named = os.environ.get("SSL_CERT_FILE")
    try:
        if named is not None:
            os.close(os.open(named, os.O_RDONLY))
    except OSError as unreadable:
        return f"{reason}; SSL_CERT_FILE is {named}: {unreadable.strerror}: name the authorities"
    return f"{reason}; SSL_CERT_FILE may name the authority that signed for it"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is known to be behind it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or _argument(found)


def _cause(error: BaseException) -> str:
    """Return the innermost reason that is known, on one line."""
    *_, inner = _chain(error)
    reason = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return " ".join(reason.split()) or type(inner).__name__


def _argument(error: BaseException) -> BaseException | None:
    last = error.args[-1] if error.args else None
    return last if isinstance(last, BaseException) else None
