"""nginx, as a publisher would run it, that counts what goes over the wire.

Owns the process, its configuration and its log; ``with NginxServer(folder) as server`` is used as
the tests' ``FileServer`` is.
"""

import getpass
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

__all__ = ["NginxServer"]

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_PATIENCE_S = 10.0
_FRAME = """
user {user}; daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  log_format counted "$request_length $bytes_sent";
  access_log {folder}/access.log counted;
  {server}
}}
"""


class NginxServer:
    """nginx on loopback, with the configuration that docs/ota.md names.

    Args:
        folder: What it serves.
    """

    @staticmethod
    def is_installed() -> bool:
        """Tell whether this machine has nginx."""
        return shutil.which("nginx") is not None

    def __init__(self, folder: Path) -> None:
        self._own = tempfile.TemporaryDirectory()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        server = (_CONFIGS / "ota-nginx.conf").read_text(encoding="utf-8")
        server = re.sub(r"listen [^;]+;", f"listen 127.0.0.1:{port} backlog=2048;", server)
        server = re.sub(r"root [^;]+;", f"root {folder.resolve()};", server)
        self._log = Path(self._own.name, "access.log")
        self._config = Path(self._own.name, "nginx.conf")
        self._config.write_text(
            _FRAME.format(folder=self._own.name, user=getpass.getuser(), server=server),
            encoding="utf-8",
        )
        self._skipped = 0

    def __enter__(self) -> "NginxServer":
        command = ["nginx", "-c", str(self._config), "-p", self._own.name]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + _PATIENCE_S
        port = int(self.url.rpartition(":")[2])
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise RuntimeError(f"nginx did not start: {Path(self._own.name, 'error.log').read_text()}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._own.cleanup()

    @property
    def counts(self) -> tuple[int, int]:
        """Requests since the last ``forget_requests``, and their bytes both ways."""
        rows = [line.split() for line in self._log.read_text().splitlines()[self._skipped :]]
        return len(rows), sum(int(received) + int(sent) for received, sent in rows)

    def forget_requests(self) -> None:
        """Count from zero."""
        self._skipped = len(self._log.read_text().splitlines())
