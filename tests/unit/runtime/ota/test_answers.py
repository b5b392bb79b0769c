"""What servers answer where it is not a file: that they took something, or when to come again."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from unittest import mock

import pytest

from pfm_edge_runtime.errors import FetchError
from pfm_edge_runtime.ota._transport import MissingFileError, RefusedError, TryAgainError
from tests.support.ota_proxy import serve_tls
from tests.support.ota_server import Exchange, FileServer, captive_portal, refusing
from tests.unit.runtime.ota.conftest import DATA, Open


@pytest.mark.parametrize(
    ("status", "body", "taken"),
    [
        (204, b"", True),
        (201, b"<!doctype html><p>made", True),
        (202, b"<html>", True),
        (200, b"", True),
        (200, b"ok", True),
        (200, b"\n <!DOCTYPE HTML><title>Room?", False),
    ],
)
def test_a_receipt_that_was_taken_is_known_whatever_its_answer_is_called(
    opened: Open, server: FileServer, status: int, body: bytes, taken: bool
) -> None:
    server.posting = lambda exchange: exchange.give(body, status, "text/html; charset=utf-8")
    with opened() as transport:
        if taken:
            transport.post(b"{}", "application/json")
        else:
            with pytest.raises(FetchError, match="wants a login first"):
                transport.post(b"{}", "application/json")


def test_nobody_in_between_answers_by_tls(
    opened: Open, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(serve_tls(server, tmp_path)))
    server.posting = captive_portal
    with opened(server.url.replace("http:", "https:")) as transport:
        transport.post(b"{}", "application/json")


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, MissingFileError, r"takes nothing there \(404\); is it where receipts go"),
        (403, MissingFileError, r"takes nothing there \(403\); is it where receipts go"),
        (401, RefusedError, r"wants a user and a password, or others \(401\)"),
    ],
)
def test_where_no_receipts_go_is_said_in_their_words(
    opened: Open, server: FileServer, status: int, error: type[Exception], words: str
) -> None:
    server.posting = refusing(status)
    with opened() as transport, pytest.raises(error, match=words):
        transport.post(b"{}", "application/json")


def _date(seconds: int) -> str:
    # A device may believe in another year: it is the server's clock that counts.
    return format_datetime(datetime(2031, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds), True)


@pytest.mark.parametrize(
    ("status", "stated", "span"),
    [
        (429, "7", (7, 7)),
        (503, _date(40), (40, 40)),
        (503, _date(-40), (0, 0)),
        (503, "soon", (0, 0)),
        (503, "9" * 400, (86_400, 86_400)),
        (429, "3600", (3600, 3600)),
    ],
)
def test_a_server_that_says_when_to_come_again(
    opened: Open,
    server: FileServer,
    pauses: list[float],
    status: int,
    stated: str,
    span: tuple[float, float],
) -> None:
    least, most = span
    seen: list[str] = []

    def busy_once(exchange: Exchange) -> None:
        seen.append(exchange.name)
        if len(seen) > 1:
            exchange.give(DATA)
        else:
            with mock.patch.object(exchange, "date_time_string", return_value=_date(0)):
                exchange.begin(status, ("Retry-After", stated), ("Content-Length", "0"))

    server.answers["a.json"] = busy_once
    with opened(attempts=2) as transport:
        if most <= 60:
            assert transport.read("a.json", most=3000) == DATA
            (pause,) = pauses
            assert least <= pause - 0.5 <= most  # and half of a bound, so that not all come at once
        else:
            with pytest.raises(TryAgainError) as caught:
                transport.read("a.json", most=3000)
            assert least <= caught.value.after <= most
            assert (pauses, len(seen)) == ([], 1)
