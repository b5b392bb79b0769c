"""Servers and networks that misbehave: one clear line each, and the device as it was.

The device is up to date and forgot "rose"; something new waits for it that it cannot get.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from pfm_edge_runtime.errors import FetchError
from tests.support.ota_scene import Scene, set_scene
from tests.support.ota_server import (
    Answer,
    Exchange,
    FileServer,
    captive_portal,
    closing,
    cut_short,
    endless,
    giving,
    redirecting,
    refusing,
    slow,
)

FILES = {
    "root": "metadata/2.root.json",
    "timestamp": "metadata/timestamp.json",
    "snapshot": "metadata/*.snapshot.json",
    "bundles": "metadata/*.bundles.json",
    "channel": "targets/channel/*",
    "bundle": "targets/bundles/*",
}
_A_MEBIBYTE = 2**20


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with set_scene(tmp_path) as scene:
        scene.world.publish("daisy", "tulip")
        yield scene


@pytest.mark.parametrize("name", [*FILES, "forget list"])
def test_endless_data(scene: Scene, name: str) -> None:
    if name == "forget list":
        scene.server.answers["metadata/timestamp.json"] = refusing(500)
    scene.server.answers[FILES.get(name, "forget.json")] = endless(b"{")
    report = scene.attack(scene.world.public, attempts=1)
    most = 48 * _A_MEBIBYTE if name == "forget list" else 4 * _A_MEBIBYTE
    assert scene.server.sent < most  # what the kernel holds on its way is counted, too
    assert report.bytes < most
    scene.recover()


@pytest.mark.parametrize("header", [True, False], ids=["body", "header"])
@pytest.mark.parametrize("name", FILES)
def test_slow_loris(scene: Scene, name: str, header: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # A byte every 50 ms keeps every wait short, and would last for hours.
    monkeypatch.setattr("pfm_edge_runtime.ota._http._SLOWEST_RATE", 2**30)
    scene.server.answers[FILES[name]] = slow(bytes_a_second=20, header=header)
    scene.server.forget_requests()
    report = scene.attack(scene.world.public, attempts=1, timeout=0.4)
    assert isinstance(report.error, FetchError)
    (loris,) = [each for each in scene.server.requests if fnmatchcase(each.path, FILES[name])]
    assert loris.sent < 1000  # header and body, before it was given up
    assert report.exit_code == 75
    scene.recover()


@pytest.mark.parametrize("name", [*FILES][1:])
@pytest.mark.parametrize(
    "answer",
    [cut_short(), cut_short(0.99), giving(b""), closing, giving(b"{" * 900), refusing(503)],
    ids=["half of it", "all but an end", "nothing", "no answer", "another length", "busy"],
)
def test_wrong_length(scene: Scene, name: str, answer: Answer) -> None:
    scene.server.answers[FILES[name]] = answer
    scene.attack(scene.world.public)
    scene.recover()


@pytest.mark.parametrize("name", [*FILES][1:])
def test_wrong_hash(scene: Scene, name: str) -> None:
    pattern = FILES[name]

    def one_bit(exchange: object) -> None:
        data = bytearray(exchange.file() or b"")  # type: ignore[attr-defined]
        data[len(data) // 2] ^= 1
        exchange.give(bytes(data))  # type: ignore[attr-defined]

    scene.server.answers[pattern] = one_bit  # type: ignore[assignment]
    scene.attack(scene.world.public)
    scene.recover()


def test_a_busy_server_is_asked_again(scene: Scene) -> None:
    left = 2

    def busy_twice(exchange: object) -> None:
        nonlocal left
        left -= 1
        refusing(503)(exchange) if left >= 0 else exchange.give(exchange.file())  # type: ignore[attr-defined,arg-type]

    scene.server.answers["metadata/timestamp.json"] = busy_twice  # type: ignore[assignment]
    waits: list[float] = []
    report = scene.ask(sleep=waits.append)
    assert report.outcome == "updated"
    assert len(waits) == 2
    assert 0 <= waits[0] <= 1
    assert 0 <= waits[1] <= 2


def test_a_server_that_wants_an_hour_gets_it(scene: Scene) -> None:
    def busy(exchange: Exchange) -> None:
        exchange.begin(503, ("Retry-After", "3600"), ("Content-Length", "0"))

    scene.server.answers[FILES["timestamp"]] = busy
    report = scene.attack(scene.world.public)
    assert (report.retry_after, report.exit_code) == (3600, 75)
    assert scene.server.gets.count(FILES["timestamp"]) == 1
    scene.recover()


@pytest.mark.parametrize("name", FILES)
def test_a_captive_portal(scene: Scene, name: str) -> None:
    scene.server.answers[FILES[name]] = captive_portal
    report = scene.attack(scene.world.public)
    assert "login page" in str(report.problem) or "web page" in str(report.problem)
    assert "\n" not in str(report.problem)
    scene.recover()


@pytest.mark.parametrize("name", FILES)
def test_a_redirect_to_another_host(scene: Scene, name: str, tmp_path: Path) -> None:
    with FileServer(scene.world.public, host="127.0.0.2") as other:
        scene.server.answers[FILES[name]] = redirecting(other.url)
        report = scene.attack(scene.world.public)
        assert other.requests == []
    assert "redirected to another host" in str(report.problem)
    scene.recover()


def test_a_redirect_within_the_host_is_followed(scene: Scene) -> None:
    scene.server.folder = scene.world.root / "repo"
    scene.server.answers["metadata/*"] = redirecting(f"{scene.server.url}/public")
    scene.server.answers["targets/*"] = redirecting(f"{scene.server.url}/public")
    report = scene.device.update(scene.server.url)
    assert (report.outcome, report.problem) == ("updated", None)


def test_redirects_in_a_circle(scene: Scene) -> None:
    scene.server.answers["metadata/timestamp.json"] = redirecting(scene.server.url)
    report = scene.attack(scene.world.public)
    assert "again and again" in str(report.problem)
    scene.recover()


def test_an_unreachable_host(scene: Scene) -> None:
    with FileServer(scene.world.public) as gone:
        url = gone.url
    report = scene.device.update(url)
    assert report.exit_code == 75
    assert "cannot be reached" in str(report.problem)
    report = scene.device.update("http://pfm-edge.invalid/public")
    assert report.exit_code == 75
    assert scene.device.answers == {"daisy", "tulip", "violet"}
    scene.recover()


def test_a_budget_that_is_too_small_stops_before_the_bundle(scene: Scene) -> None:
    report = scene.ask(max_bytes=3000)
    assert report.outcome == "failed"
    assert "--max-bytes" in str(report.problem)
    assert report.bytes <= 3000
    assert not [each for each in scene.server.gets if "/bundles/" in each]
    scene.recover()


def test_receipts_stay_until_a_server_took_them(scene: Scene) -> None:
    for answer in (refusing(500), refusing(404), captive_portal, closing):
        scene.server.posting = answer
        report = scene.ask(receipts=f"{scene.server.url}/receipts", attempts=1)
        assert (report.sent, report.waiting) == (0, 1), answer
    scene.server.posting = None
    report = scene.ask(receipts=f"{scene.server.url}/receipts")
    assert (report.sent, report.waiting, len(scene.server.posted)) == (1, 0, 1)
    assert scene.ask(receipts=f"{scene.server.url}/receipts").sent == 0
