"""Proxies of the environment: which is asked, what it is told, and what it may do to a file."""

import gzip
import zlib
from pathlib import Path

import pytest

from pfm_edge_runtime.errors import ConfigError, FetchError
from pfm_edge_runtime.ota._transport import RefusedError, TryAgainError
from tests.support.ota_proxy import PasswordProxy, serve_tls
from tests.support.ota_server import Answer, Exchange, FileServer
from tests.unit.runtime.ota.conftest import DATA, Open


def test_a_proxy_of_the_environment_is_asked(
    opened: Open, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    asked = []

    def proxy(exchange: Exchange) -> None:
        asked.append(exchange.path)
        exchange.give(DATA)

    server.answers["*"] = proxy
    with opened("http://updates.example/public") as transport:
        assert transport.read("a.json", most=3000) == DATA
    monkeypatch.setenv("http_proxy", server.url.removeprefix("http://"))  # as curl takes it
    with opened("http://updates.example/public") as transport:
        transport.read("a.json", most=3000)
    assert asked == ["http://updates.example/public/a.json"] * 2
    monkeypatch.setenv("no_proxy", "updates.example")
    with opened("http://updates.example/public") as transport, pytest.raises(TryAgainError):
        transport.read("a.json", most=3000)
    monkeypatch.setenv("no_proxy", "")
    for wrong in ("socks9://nowhere", "http://u:secret@", "http://["):
        monkeypatch.setenv("http_proxy", wrong)
        with pytest.raises(ConfigError, match="the proxy of the environment"):
            opened("http://updates.example/public")


def test_a_host_that_is_a_number_is_found_in_no_proxy(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks9://nowhere")
    for named in ("::1", "[::1]"):
        monkeypatch.setenv("no_proxy", named)
        with opened("http://[::1]:1") as transport, pytest.raises(TryAgainError, match="refused"):
            transport.read("a.json", most=3000)


@pytest.mark.parametrize(("scheme", "method"), [("http", "GET"), ("https", "CONNECT")])
def test_a_proxy_that_wants_a_password_gets_it_and_nobody_else(
    opened: Open,
    server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    method: str,
) -> None:
    if scheme == "https":
        monkeypatch.setenv("SSL_CERT_FILE", str(serve_tls(server, tmp_path)))
    url = server.url.replace("http:", f"{scheme}:")
    with PasswordProxy("user:p@ss") as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:p%40ss@{proxy.address}")
        with opened(url) as transport:
            assert transport.read("a.json", most=3000) == DATA
        assert [each[0] for each in proxy.asked] == [method]
        for wrong in ("user:wr0ng@", ""):
            monkeypatch.setenv(f"{scheme}_proxy", f"http://{wrong}{proxy.address}")
            with opened(url) as transport, pytest.raises(RefusedError) as caught:
                transport.read("a.json", most=3000)
            assert "the proxy of the environment wants a user and a password" in str(caught.value)
            assert "wr0ng" not in str(caught.value)


# --- what a proxy may do to a file: it was asked for as it is


def packed(data: bytes, packing: str = "gzip", *, chunked: bool = False) -> Answer:
    """Answer with something that is compressed."""

    def answer(exchange: Exchange) -> None:
        length = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", f"{len(data)}")
        exchange.begin(200, ("Content-Encoding", packing), length)
        exchange.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if chunked else data)

    return answer


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_that_a_proxy_compressed_is_the_file(
    opened: Open, server: FileServer, chunked: bool
) -> None:
    noise = zlib.compress(b"".join(b"%d" % number for number in range(9000)))  # gzip adds to it
    for data in (DATA, noise, b""):
        server.answers["a.json"] = packed(gzip.compress(data), chunked=chunked)
        with opened() as transport:
            assert transport.read("a.json", most=len(data)) == data


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (packed(DATA, "br"), r"comes compressed \(br\), which nobody asked for"),
        (packed(DATA), "compressed, and damaged"),
        (packed(gzip.compress(DATA)[:-9]), "the end of what is compressed is missing"),
        (packed(gzip.compress(DATA + b"x")), "longer than the 3000 bytes"),
        (packed(gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 4000), "longer than the 3000 bytes"),
    ],
)
def test_what_is_compressed_and_wrong_is_one_clear_line(
    opened: Open, server: FileServer, answer: Answer, finding: str
) -> None:
    server.answers["a.json"] = answer
    with opened() as transport, pytest.raises(FetchError, match=finding):
        transport.read("a.json", most=3000)


def test_a_bomb_costs_no_memory(opened: Open, server: FileServer) -> None:
    import tracemalloc

    server.answers["a.json"] = packed(gzip.compress(bytes(2**27)))
    tracemalloc.start()
    with opened() as transport, pytest.raises(FetchError, match="longer than"):
        transport.read("a.json", most=2**17)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22
