"""A file server that counts what goes over the wire, and that can be as bad as a server can be.

Owns the server that every test of updates talks to: real sockets on loopback, one thread for each
connection, HTTP/1.1 with connections that stay open. A request is counted whole, header and body,
in both directions::

    with FileServer(repository / "public") as server:
        update_model(package, open_source(server.url, options), …)
        server.gets                                   # ["metadata/2.root.json", …]
        server.sent                                   # bytes, header and body

    server.answers["metadata/timestamp.json"] = slow(bytes_a_second=1)    # … and now a slow loris
    server.answers["*"] = captive_portal                                  # or a hotel's network

A name in ``answers`` is a path below the server's root or a pattern of ``fnmatch``; the last one
that fits answers. What is posted is kept in ``posted``.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from fnmatch import fnmatchcase
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

__all__ = [
    "Answer",
    "Exchange",
    "FileServer",
    "Request",
    "captive_portal",
    "closing",
    "cut_short",
    "endless",
    "giving",
    "quoted",
    "redirecting",
    "refusing",
    "slow",
]

_CHUNK = 2**16
_PATIENCE_S = 30  # until a connection notices that its client went away
_BACKLOG = 2048  # connections that may wait: a fleet calls at once


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was answered, or that the client gave up.

    Attributes:
        method: Of HTTP.
        path: Below the server's root, decoded.
        status: What was answered; 0: nothing.
        received: Bytes that came in, header and body.
        sent: Bytes that went out, header and body.
        connection: Number of the connection that it came by.
    """

    method: str
    path: str
    status: int
    received: int
    sent: int
    connection: int


class _Counted:
    """A stream that counts; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        return self._add(self._stream.read(size))

    def readline(self, size: int = -1) -> bytes:
        return self._add(self._stream.readline(size))

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return int(self._stream.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _add(self, data: bytes) -> bytes:
        self.count += len(data)
        return data


class Exchange(BaseHTTPRequestHandler):
    """One connection; an :data:`Answer` gets it for each request."""

    protocol_version = "HTTP/1.1"
    server: "_Server"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.incoming, self.outgoing = _Counted(self.rfile), _Counted(self.wfile)
        self.rfile = cast("BufferedIOBase", self.incoming)
        self.wfile = cast("BufferedIOBase", self.outgoing)
        self.status = 0
        self.number = self.server.owner.connected()

    def handle_one_request(self) -> None:
        self.incoming.count = self.outgoing.count = self.status = 0
        self.under_way = False
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            if self.under_way:
                counts = self.incoming.count, self.outgoing.count
                found = Request(self.command, self.name, self.status, *counts, self.number)
                self.server.owner.end(found)

    def parse_request(self) -> bool:
        good = super().parse_request()
        if good:
            self.server.owner.begin()
            self.under_way = True
        return good

    def do_GET(self) -> None:
        self.server.owner.answer_for(self.name)(self)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        answer = self.server.owner.posting
        if answer is not None:
            answer(self)
            return
        self.server.owner.posted.append(body)
        self.give(b"", HTTPStatus.NO_CONTENT)

    @property
    def name(self) -> str:
        """The path that is asked for, below the server's root."""
        return unquote(urlsplit(self.path).path).lstrip("/")

    def begin(self, status: int, *fields: tuple[str, str]) -> None:
        """Send a status and a header."""
        self.status = status
        self.send_response(status)
        for name, text in fields:
            self.send_header(name, text)
        self.end_headers()

    def give(self, data: bytes, status: int = HTTPStatus.OK, kind: str = "") -> None:
        """Send an answer as a good server does."""
        kind = kind or "application/octet-stream"
        modified = formatdate(0, usegmt=True)
        fields = [("Content-Type", kind), ("Content-Length", str(len(data)))]
        self.begin(status, *fields, ("Last-Modified", modified))
        self.wfile.write(data)

    def file(self) -> bytes | None:
        """Return the file that is asked for, unless there is none."""
        root = self.server.owner.folder.resolve()
        path = (root / self.name).resolve()
        return path.read_bytes() if path.is_relative_to(root) and path.is_file() else None

    def waiting(self, seconds: float) -> bool:
        """Wait; tell whether the server is still there."""
        return not self.server.owner.closing.wait(seconds)

    def version_string(self) -> str:
        return "SimpleHTTP/0.6 Python/3.12.3"  # as long as that of python -m http.server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's)
        return


Answer = Callable[[Exchange], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _BACKLOG
    owner: "FileServer"

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # a client that went away is what half of the tests are about


class FileServer:
    """A server of one folder; use it as a context.

    Attributes:
        folder: What it serves; it may change at any time.
        answers: Who answers instead of the folder, by path or pattern.
        posting: Who answers a POST; ``None``: it is accepted.
        posted: The bodies that were accepted.
        closing: Set when the server ends.
    """

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.answers: dict[str, Answer] = {}
        self.posting: Answer | None = None
        self.posted: list[bytes] = []
        self.closing = threading.Event()
        self.connections = 0
        self._requests: list[Request] = []
        self._under_way = 0
        self._changed = threading.Condition()
        self._server = _Server((host, 0), Exchange)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "FileServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def requests(self) -> list[Request]:
        """What was asked, in the order in which it was done with; nothing is under way then."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._under_way, _PATIENCE_S)
            return list(self._requests)

    @property
    def gets(self) -> list[str]:
        """Paths that were asked for, in order."""
        return [each.path for each in self.requests if each.method == "GET"]

    @property
    def sent(self) -> int:
        """Bytes that went out, header and body."""
        return sum(each.sent for each in self.requests)

    @property
    def received(self) -> int:
        """Bytes that came in, header and body."""
        return sum(each.received for each in self.requests)

    @property
    def counts(self) -> tuple[int, int]:
        """Requests since the last :meth:`forget_requests`, and their bytes both ways."""
        requests = self.requests
        return len(requests), sum(each.sent + each.received for each in requests)

    def forget_requests(self) -> None:
        """Count from zero."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._under_way, _PATIENCE_S)
            self._requests.clear()

    def connected(self) -> int:
        """Number a connection."""
        with self._changed:
            self.connections += 1
            return self.connections

    def begin(self) -> None:
        """Note that a request is under way."""
        with self._changed:
            self._under_way += 1

    def end(self, request: Request) -> None:
        """Note that it is done with."""
        with self._changed:
            self._under_way -= 1
            self._requests.append(request)
            self._changed.notify_all()

    def answer_for(self, name: str) -> Answer:
        """Return who answers for a path."""
        fitting = [each for pattern, each in self.answers.items() if fnmatchcase(name, pattern)]
        return fitting[-1] if fitting else _from_the_folder


def _from_the_folder(exchange: Exchange) -> None:
    data = exchange.file()
    if data is None:
        exchange.give(b"File not found\n", HTTPStatus.NOT_FOUND, "text/plain")
    else:
        exchange.give(data)


def giving(data: bytes) -> Answer:
    """Answer with other bytes than the folder has."""
    return lambda exchange: exchange.give(data)


def quoted(exchange: Exchange) -> None:
    """Answer from a folder whose file names are quoted as they are in URLs."""
    path = exchange.server.owner.folder / urlsplit(exchange.path).path.lstrip("/")
    if path.is_file():
        exchange.give(path.read_bytes())
    else:
        exchange.give(b"File not found\n", HTTPStatus.NOT_FOUND, "text/plain")


def refusing(status: int) -> Answer:
    """Answer with an error."""
    return lambda exchange: exchange.give(b"no\n", status, "text/plain")


def redirecting(url: str, status: int = HTTPStatus.FOUND) -> Answer:
    """Send the client to the same path below another URL."""

    def answer(exchange: Exchange) -> None:
        exchange.begin(status, ("Location", f"{url}/{exchange.name}"), ("Content-Length", "0"))

    return answer


def captive_portal(exchange: Exchange) -> None:
    """Answer as a hotel's network does: with success, and a page that asks for a room number."""
    page = b"<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body>Room?</body></html>\n"
    exchange.give(page, kind="text/html; charset=utf-8")


def closing(exchange: Exchange) -> None:
    """Close the connection without a word."""
    exchange.close_connection = True
    with suppress(OSError):
        exchange.connection.shutdown(socket.SHUT_RDWR)


def cut_short(share: float = 0.5) -> Answer:
    """Promise the whole file, send a part of it and close the connection."""

    def answer(exchange: Exchange) -> None:
        data = exchange.file() or b""
        exchange.begin(HTTPStatus.OK, ("Content-Length", str(len(data))))
        exchange.wfile.write(data[: int(len(data) * share)])
        exchange.close_connection = True

    return answer


def slow(*, bytes_a_second: float = 10, header: bool = True) -> Answer:
    """Send the file byte by byte, or (without a header) not even the first line of an answer."""

    def answer(exchange: Exchange) -> None:
        data = exchange.file() or b"x" * _CHUNK
        if header:
            exchange.begin(HTTPStatus.OK, ("Content-Length", str(len(data))))
        for byte in data if header else b"HTTP/1.1 200 OK\r\n" + b"X-Slow: " + b"x" * _CHUNK:
            if not exchange.waiting(1 / bytes_a_second):
                return
            exchange.wfile.write(bytes([byte]))

    return answer


def endless(first: bytes = b"", *, most: int = 2**30) -> Answer:
    """Begin with ``first`` and go on for ever, without saying how long it will be.

    ``most`` bytes are for ever enough: a client that took them all has no limit.
    """

    def answer(exchange: Exchange) -> None:
        exchange.begin(HTTPStatus.OK, ("Transfer-Encoding", "chunked"))
        for chunk in _endless_chunks(first, most):
            if exchange.server.owner.closing.is_set():
                return
            exchange.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        exchange.wfile.write(b"0\r\n\r\n")

    return answer


def _endless_chunks(first: bytes, most: int) -> Iterator[bytes]:
    if first:
        yield first
    for _ in range(0, most, _CHUNK):
        yield b" " * _CHUNK
