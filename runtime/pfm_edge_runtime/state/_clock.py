"""What time it is, and how far to believe it.

Owns how a moment is written in the ledger, and the word that goes with it: a device without a
battery starts in 1970, and a receipt must not claim more than the device knows::

    moment = read_clock(not_before="2026-11-24T10:00:00Z")
    moment.time, moment.clock          # "2026-11-24T10:05:00Z", "synchronized"
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from pfm_edge_runtime.errors import StateError

__all__ = ["Clock", "ClockStatus", "Moment", "is_clock_status", "is_time", "read_clock"]

ClockStatus: TypeAlias = Literal["behind", "synchronized", "unknown", "unsynchronized"]

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TIMESYNCD = Path("/run/systemd/timesync/synchronized")  # systemd-timesyncd.service(8)
_STA_UNSYNC = 0x40  # <sys/timex.h>


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as the ledger writes it.

    Attributes:
        time: UTC to the second, as ``"2026-11-24T10:00:00Z"``.
        clock: ``"synchronized"`` with a time server; ``"unsynchronized"``: not, so far as the
            system knows; ``"behind"``: earlier than something that came before it; ``"unknown"``:
            the system does not say.
    """

    time: str
    clock: ClockStatus

    def __post_init__(self) -> None:
        if not is_time(self.time) or not is_clock_status(self.clock):
            raise StateError("a moment needs a time in UTC to the second, and the clock's status")


Clock: TypeAlias = Callable[[str | None], Moment]
"""Tells the moment, given a time that it cannot be before."""


def read_clock(not_before: str | None = None) -> Moment:
    """Read the system's clock.

    Args:
        not_before: A time that has passed already, as ``Moment.time``.
    """
    now = datetime.now(timezone.utc).strftime(_FORMAT)
    if not_before is not None and now < not_before:
        return Moment(now, "behind")
    return Moment(now, _status())


def is_time(text: str) -> bool:
    """Tell whether ``text`` is a time, spelt as the ledger spells it."""
    if _TIME.fullmatch(text) is None:
        return False
    try:
        datetime.strptime(text, _FORMAT)  # only asked whether it exists
    except ValueError:
        return False
    return True


def is_clock_status(text: str) -> bool:
    """Tell whether ``text`` is one of the words for a clock's status."""
    return text in get_args(ClockStatus)


def _status() -> ClockStatus:
    if os.path.exists(_TIMESYNCD):  # noqa: PTH110 (Path.exists raises what this answers)
        return "synchronized"
    flags = _kernel_flags()
    if flags is None:
        return "unknown"
    return "unsynchronized" if flags & _STA_UNSYNC else "synchronized"


def _kernel_flags() -> int | None:
    """Ask Linux' adjtimex(2), which changes nothing with ``modes`` 0; ``None`` elsewhere."""
    import ctypes  # noqa: PLC0415 (costs 10 ms, and only a record needs the time)

    class Timex(ctypes.Structure):  # struct timex, up to the one field that is needed
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("times", ctypes.c_long * 4),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 512),
        )

    try:
        found = Timex()
        if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(found)) < 0:
            return None
    except (AttributeError, OSError, TypeError):  # no such call on this system
        return None
    return int(found.status)
