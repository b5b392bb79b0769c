"""What may stand between a device and a server: a proxy that wants a password, and TLS.

Owns a real proxy on loopback, for plain requests and for ``CONNECT``, and certificates::

    with PasswordProxy("user:p@ss") as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:p%40ss@{proxy.address}")
        proxy.asked                               # [("GET", "http://127.0.0.1:…/a.json"), …]

    authority = serve_tls(server, tmp_path)       # for SSL_CERT_FILE; its URL is https: then
"""

import select
import socket
import ssl
import threading
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ota_server import FileServer

__all__ = ["PasswordProxy", "serve_tls"]

_PATIENCE_S = 10


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: "PasswordProxy"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if not self._is_let_in():
            return
        parts = urlsplit(self.path)
        connection = HTTPConnection(parts.netloc, timeout=_PATIENCE_S)
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        connection.close()

    def do_CONNECT(self) -> None:
        if not self._is_let_in():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=_PATIENCE_S) as there:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: there, there: self.connection}
            while found := select.select([*ends], [], [], _PATIENCE_S)[0]:
                for each in found:
                    data = each.recv(2**16)
                    if not data:
                        return
                    ends[each].sendall(data)

    def _is_let_in(self) -> bool:
        self.server.owner.asked.append((self.command, self.path))
        if self.headers["Proxy-Authorization"] == self.server.owner.expected:
            return True
        self.send_response(407)
        self.send_header("Proxy-Authenticate", "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (http.server's)
        return


class PasswordProxy:
    """A proxy that lets in who knows the login; use it as a context.

    Attributes:
        asked: What it was asked for, by method and address.
        expected: What must be said to it.
        address: Host and port.
    """

    def __init__(self, login: str) -> None:
        self.asked: list[tuple[str, str]] = []
        self.expected = f"Basic {b64encode(login.encode()).decode()}"
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "PasswordProxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serve_tls(server: FileServer, folder: Path, *, days: int = 1) -> Path:
    """Let a server speak TLS from now on; return a file with its authority.

    Args:
        server: The server.
        folder: Where keys may lie.
        days: For how long its certificate holds; below 0: since when it has expired.
    """
    path = _certificate(folder, datetime.now(UTC) + timedelta(days=days))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    return path


def _certificate(folder: Path, end: datetime) -> Path:
    """Write a key, and its certificate for 127.0.0.1, into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(end - timedelta(days=2))
        .not_valid_after(end)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path
