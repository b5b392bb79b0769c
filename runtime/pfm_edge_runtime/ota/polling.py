"""Updates again and again: when the next one is due.

Owns the pauses. They are drawn at random, so that a fleet that was switched on at once does not
call at once; after a failure of network or server the device comes back sooner, and ever later
while that lasts, but never later than it would have, unless the server says when to come again::

    poll(lambda: update_model(model, source, options=options), every=900.0, wait=stopped.wait)
"""

import random
import re
from collections.abc import Callable

from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.ota.report import TRY_AGAIN, UpdateReport

__all__ = ["next_pause", "parse_duration", "poll"]

_DURATION = re.compile(r"([0-9]{1,6})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}  # seconds
_LONGEST = 366 * 86_400  # seconds: a system waits for a limited time only
_FIRST_BOUND = 30.0  # seconds within which the first try after a failure comes
_LEAST_PAUSE = 1.0  # seconds


def parse_duration(text: str) -> float:
    """Read a duration as ``"15m"``: a number and s, m, h or d; return seconds.

    Raises:
        ConfigError: It is none, or 0, or more than a year.
    """
    found = _DURATION.fullmatch(text)
    seconds = 0 if found is None else int(found[1]) * _UNITS[found[2]]
    if not 0 < seconds <= _LONGEST:
        raise ConfigError(
            f"{text!r} is no duration: write a number and s, m, h or d, as 15m, a year at most"
        )
    return float(seconds)


def next_pause(every: float, failures: int, draw: float) -> float:
    """Return how long to wait for the next update, in seconds.

    Args:
        every: How long to wait on the average.
        failures: How many updates in a row have failed at network or server.
        draw: A random number from 0 to 1.
    """
    if failures:
        return max(_LEAST_PAUSE, draw * min(every, _FIRST_BOUND * 2.0 ** min(failures - 1, 20)))
    return every * (0.5 + draw)


def poll(
    update: Callable[[], UpdateReport],
    *,
    every: float,
    wait: Callable[[float], bool],
    draw: Callable[[], float] = random.random,
) -> None:
    """Update until told to stop.

    Args:
        update: Makes one update, and tells whoever wants to know.
        every: How long to wait in between, on the average, in seconds.
        wait: Waits for so many seconds, and tells whether to stop.
        draw: Draws a number from 0 to 1.
    """
    failures = 0
    while True:
        report = update()
        failures = failures + 1 if report.exit_code == TRY_AGAIN else 0
        pause = next_pause(every, failures, draw())
        if report.retry_after:  # no sooner, and not all at once
            pause = max(pause, report.retry_after + draw() * _FIRST_BOUND)
        if wait(pause):
            return
