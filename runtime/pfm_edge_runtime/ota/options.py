"""How an update is to be made.

Owns the options of ``update_model``; all have defaults that suit a device on a network::

    UpdateOptions(max_bytes=200_000, receipts="https://fleet.example/receipts")
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from pfm_edge_runtime.errors import ConfigError
from pfm_edge_runtime.ota._transport import Progress
from pfm_edge_runtime.ota.channel import is_cohort
from pfm_edge_runtime.ota.stopping import Stopping

__all__ = ["UpdateOptions"]

_LONGEST_TIMEOUT = 86_400.0  # seconds; what a system waits for has an end


def _ignore(*_: object) -> None:
    return


def _local_clock() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions:
    """How an update is to be made.

    Attributes:
        cohort: The cohort that this device is in; ``None``: the one that ``pfm-device init`` was
            told, if any.
        receipts: Where receipts go: a URL, or a directory; ``None`` leaves them in the outbox.
        max_bytes: Bytes that the update may cost, both ways, without headers; ``None``: any number.
        timeout: Seconds that one request may take, besides one for every 4 KiB of what it asks
            for; and seconds to wait for another update of this device.
        attempts: How often a request is tried where the network fails.
        require_state: Whether to refuse rather than to trust on first use.
        backend: What runs the graph in the health check.
        observer: Is told ``"enter:<state>"`` and ``"leave:<state>"`` of the state machine.
        progress: Is told how far a download is.
        clock: Tells the local time.
        sleep: Waits for so many seconds.
        draw: Draws a number from 0 to 1, for what is spread at random.
        stopping: Tells the update to stop.
    """

    cohort: str | None = None
    receipts: str | None = None
    max_bytes: int | None = None
    timeout: float = 30.0
    attempts: int = 3
    require_state: bool = False
    backend: str = "onnxruntime"
    observer: Callable[[str], None] = _ignore
    progress: Progress = _ignore
    clock: Callable[[], datetime] = _local_clock
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random
    stopping: Stopping = field(default_factory=Stopping)

    def __post_init__(self) -> None:
        if self.cohort is not None and not is_cohort(self.cohort):
            raise ConfigError("a cohort's name has 1 to 32 of a-z, 0-9 and . _ -")
        if not 0 < self.timeout <= _LONGEST_TIMEOUT or self.attempts < 1:
            raise ConfigError(
                "a timeout is more than 0 seconds and at most a day, and there is at least one "
                "attempt"
            )
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ConfigError("a budget has at least 1 byte")

    def pause(self, seconds: float) -> None:
        """Wait, unless the update is told to stop.

        Raises:
            StoppedError: It is.
        """
        with self.stopping.waiting():
            self.sleep(seconds)
