"""When the next update is due."""

from typing import Any

import pytest

from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.ota.polling import next_pause, parse_duration, poll


@pytest.mark.parametrize(
    ("text", "seconds"), [("15m", 900), ("90", 90), ("90s", 90), ("2h", 7200), ("1d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0m", "-1", "1.5h", "5 m", "m", "1w", "999999d", "\uff19"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="as 15m"):
        parse_duration(text)


def test_pauses_are_spread_and_back_off_without_passing_the_usual_one() -> None:
    assert [next_pause(900, 0, draw) for draw in (0.0, 0.5, 1.0)] == [450, 900, 1350]
    assert [next_pause(900, failures, 1.0) for failures in (1, 2, 3, 6, 99)] == [
        30, 60, 120, 900, 900,
    ]  # fmt: skip
    assert next_pause(900, 5, 0.0) == 1  # full jitter, but never at once


class _Report:
    def __init__(self, exit_code: int, retry_after: float = 0) -> None:
        self.exit_code = exit_code
        self.retry_after = retry_after


def test_a_device_comes_back_sooner_while_the_network_fails() -> None:
    codes, pauses = iter([75, 75, 0, 1, 75]), []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 5

    update: Any = lambda: _Report(next(codes))  # noqa: E731
    poll(update, every=900, wait=wait, draw=lambda: 1.0)
    assert pauses == [30, 60, 1350, 1350, 30]


@pytest.mark.parametrize(("stated", "pause"), [(10, 40), (3600, 3630)])
def test_a_device_comes_back_no_sooner_than_the_server_wants(stated: float, pause: float) -> None:
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return True

    update: Any = lambda: _Report(75, stated)  # noqa: E731
    poll(update, every=900, wait=wait, draw=lambda: 1.0)
    assert pauses == [pause]
