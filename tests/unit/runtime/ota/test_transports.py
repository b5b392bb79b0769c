"""Every way in which a repository may be reached, and every way in which that may go wrong."""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from pfm_edge_runtime.errors import ConfigError, FetchError, PfmEdgeError, UpdateError
from pfm_edge_runtime.ota._directory import DirectoryTransport
from pfm_edge_runtime.ota._transport import (
    Meter,
    MissingFileError,
    RefusedError,
    TryAgainError,
)
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.source import open_source
from tests.support.ota_proxy import serve_tls
from tests.support.ota_server import (
    Answer,
    Exchange,
    FileServer,
    captive_portal,
    closing,
    cut_short,
    endless,
    redirecting,
    refusing,
    slow,
)
from tests.unit.runtime.ota.conftest import DATA, Open


def _stating(status: int, field: tuple[str, str], body: bytes = b"") -> Answer:
    """Answer with a field of somebody's invention."""

    def answer(exchange: Exchange) -> None:
        exchange.begin(status, field)
        exchange.wfile.write(body)
        exchange.close_connection = True

    return answer


def test_a_file_comes_whole_and_is_counted(opened: Open, server: FileServer) -> None:
    with opened(f"{server.url}/") as transport:
        assert transport.read("a.json", most=3000) == DATA
        with pytest.raises(MissingFileError, match="no such file"):
            transport.read("2.root.json", most=3000)
        assert transport.read("a.json", most=3000) == DATA
        assert transport.meter.requests == 3
        assert 2 * len(DATA) <= transport.meter.received < 2 * len(DATA) + 100
    assert server.connections == 1  # also after what is not there


@pytest.mark.parametrize(
    ("answer", "finding"),
    [
        (captive_portal, "a network .* that wants a login first"),
        (refusing(511), "a network .* that wants a login first"),
        (redirecting("http://elsewhere.example"), "redirected to another host"),
        (redirecting("https://127.0.0.1"), "redirected to another host"),
        (endless(), "longer than the 3000 bytes"),
        (endless(b"<html>"), "wants a login first"),
        (cut_short(), "broke off"),
        (closing, "broke off"),
        (refusing(503), r"cannot answer just now \(503\)"),
        (refusing(403), r"no such file \(403\)"),
        (refusing(400), "status 400"),
        (_stating(200, ("Transfer-Encoding", "chunked"), b"-5\r\n"), "broke off"),
        (_stating(200, ("Content-Length", "9" * 5000)), "longer than the 3000"),
        (redirecting("http://[::1"), "redirected to no address"),
    ],
    ids=lambda value: getattr(value, "__qualname__", None) if callable(value) else None,
)
def test_a_bad_answer_is_one_clear_line(
    opened: Open, server: FileServer, answer: Answer, finding: str
) -> None:
    server.answers["a.json"] = answer
    with opened() as transport, pytest.raises(FetchError, match=finding) as caught:
        transport.read("a.json", most=3000)
    assert "\n" not in str(caught.value)
    assert server.url in str(caught.value)


@pytest.mark.parametrize("header", [True, False])
def test_a_slow_loris_is_cut_off(opened: Open, server: FileServer, header: bool) -> None:
    server.answers["a.json"] = slow(bytes_a_second=20, header=header)
    with opened(timeout=0.3) as transport, pytest.raises(TryAgainError, match="too slow"):
        transport.read("a.json", most=10)


def test_a_server_that_says_nothing_is_given_up(opened: Open, server: FileServer) -> None:
    server.answers["a.json"] = lambda exchange: exchange.waiting(5) and None
    with opened(timeout=0.2) as transport, pytest.raises(TryAgainError):
        transport.read("a.json", most=10)


def test_redirects_within_the_host_are_followed_a_few_times(
    opened: Open, server: FileServer
) -> None:
    server.answers["old/*"] = lambda exchange: exchange.begin(
        302, ("Location", "/" + exchange.name.removeprefix("old/")), ("Content-Length", "0")
    )
    with opened(f"{server.url}/old/old/old") as transport:
        assert transport.read("a.json", most=3000) == DATA
    again = pytest.raises(FetchError, match="again and again")
    with opened(f"{server.url}/old/old/old/old") as transport, again:
        transport.read("a.json", most=3000)


def test_what_passes_is_tried_again_after_a_drawn_pause(
    opened: Open, server: FileServer, pauses: list[float]
) -> None:
    seen = []

    def twice(exchange: Exchange) -> None:
        seen.append(exchange.name)
        exchange.give(DATA, 200 if len(seen) > 2 else 503)

    server.answers["a.json"] = twice
    with opened(attempts=3) as transport:
        assert transport.read("a.json", most=3000) == DATA
    assert pauses == [0.5, 1.0]  # half of a bound that doubles
    with opened(attempts=3) as transport, pytest.raises(MissingFileError):
        transport.read("b.json", most=3000)
    assert pauses == [0.5, 1.0]  # what is not there is not there


def test_tls_is_trusted_as_far_as_it_is_and_cut_off_too(
    opened: Open, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = serve_tls(server, tmp_path)
    url = server.url.replace("http:", "https:")
    for named, finding in ((None, "SSL_CERT_FILE may name"), ("/none.pem", "/none.pem: No such")):
        if named is not None:
            monkeypatch.setenv("SSL_CERT_FILE", named)
        with opened(url) as transport, pytest.raises(RefusedError, match=finding) as caught:
            transport.read("a.json", most=3000)
        assert "is not 127.0.0.1, or not for now: self-signed" in str(caught.value)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with opened(url) as transport:
        assert transport.read("a.json", most=3000) == DATA
    server.answers["a.json"] = slow(bytes_a_second=20)
    with opened(url, timeout=0.3) as transport, pytest.raises(TryAgainError, match="too slow"):
        transport.read("a.json", most=10)


@pytest.mark.parametrize(("days", "finding"), [(-5, "has expired"), (9, "not yet valid")])
def test_a_certificate_of_another_time_makes_one_look_at_the_clock(
    opened: Open,
    server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    finding: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(serve_tls(server, tmp_path, days=days)))
    refused = pytest.raises(RefusedError, match=f"{finding} .*set this device's clock")
    with opened(server.url.replace("http:", "https:")) as transport, refused:
        transport.read("a.json", most=3000)


def test_a_handshake_is_cut_off_too(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"\x16\x03\x03\x40\x00")  # a long record of a handshake
                while not done.wait(0.05):
                    with suppress(OSError):
                        connection.sendall(b"\0")

        thread = threading.Thread(target=trickle)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        transport = opened(url, timeout=0.3)
        with transport, pytest.raises(TryAgainError, match="too slow"):
            transport.read("a.json", most=10)
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("url", "finding"),
    [
        ("http://127.0.0.1:1", "cannot be reached: Connection refused"),
        ("http://no-such-host.invalid", r"no network knows the name no-such-host\.invalid"),
        ("https://127.0.0.1:{port}", "cannot be reached by TLS"),
    ],
)
def test_nobody_is_there(opened: Open, server: FileServer, url: str, finding: str) -> None:
    transport = opened(url.format(port=server.url.rpartition(":")[2]))
    with transport, pytest.raises(FetchError, match=finding) as caught:
        transport.read("a.json", most=3000)
    assert "\n" not in str(caught.value)


def test_the_budget_is_asked_before_anything_is_fetched(opened: Open, server: FileServer) -> None:
    with opened(most=2999) as transport:
        with pytest.raises(UpdateError, match=r"more than 2999 bytes.*--max-bytes"):
            transport.read("a.json", most=3000)
        assert transport.meter.received == 0
    server.answers["a.json"] = endless()  # it does not say how long it is
    with opened(most=100_000) as transport:
        with pytest.raises(UpdateError, match="--max-bytes"):
            transport.read("a.json", most=2**20)
        assert transport.meter.received < 200_000


def test_a_password_goes_to_the_server_and_into_no_message(
    opened: Open, server: FileServer
) -> None:
    seen = []

    def asked(exchange: Exchange) -> None:
        seen.append(exchange.headers["Authorization"])
        exchange.give(b"", 400)

    server.answers["*"] = asked
    url = server.url.replace("http://", "http://user:s3cret@")
    with opened(url) as transport, pytest.raises(FetchError) as caught:
        transport.read("a.json", most=3000)
    assert seen == ["Basic dXNlcjpzM2NyZXQ="]
    assert "s3cret" not in str(caught.value) + transport.name + str(open_source(url))


@pytest.mark.parametrize(
    "url",
    ["http://", "https:///x", "http://h:port/", "http://h/?a=1", "http://h/#a", "http://[::1"],
)
def test_a_url_that_is_none(opened: Open, url: str) -> None:
    with pytest.raises(ConfigError):
        opened(url)


@pytest.mark.parametrize("name", ["../a.json", "a/../../b", "/etc/passwd", "a//b", "a\\b", "a\0b"])
def test_no_name_leads_out_of_the_repository(opened: Open, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.json").write_bytes(DATA)
    for transport in (opened(), DirectoryTransport(tmp_path / "served", Meter())):
        with pytest.raises(FetchError, match="leads elsewhere"):
            transport.read(name, most=3000)


def test_a_directory_is_read_as_far_as_it_is_one(tmp_path: Path) -> None:
    transport = DirectoryTransport(tmp_path, Meter())
    (tmp_path / "a.json").write_bytes(DATA)
    assert transport.read("a.json", most=3000) == DATA
    with pytest.raises(FetchError, match="longer than the 2999 bytes"):
        transport.read("a.json", most=2999)
    with pytest.raises(MissingFileError, match="copy the whole public folder"):
        transport.read("b.json", most=3000)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FetchError, match="no regular file"):
        transport.read("pipe", most=3000)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FetchError):
        transport.read("folder", most=3000)


def test_where_updates_may_come_from(tmp_path: Path) -> None:
    options, meter = UpdateOptions(), Meter()
    with pytest.raises(ConfigError, match="no http"):
        open_source("ftp://host/x")
    for empty in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="holds no repository"):
            open_source(empty).transport(options, meter)
    (tmp_path / "public" / "metadata").mkdir(parents=True)
    (tmp_path / "metadata").mkdir()  # the publisher's own
    for named in (tmp_path, tmp_path / "public"):
        assert open_source(named).transport(options, meter).name == str(tmp_path / "public")
    (tmp_path / "forget.json").write_bytes(b"{}")
    assert open_source(tmp_path / "forget.json").forget_list is not None


@pytest.mark.parametrize(
    "wrong",
    [{"cohort": "A B"}, {"timeout": 0.0}, {"timeout": 1e9}, {"attempts": 0}, {"max_bytes": 0}],
)
def test_options_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(PfmEdgeError):
        UpdateOptions(**wrong)  # type: ignore[arg-type]
