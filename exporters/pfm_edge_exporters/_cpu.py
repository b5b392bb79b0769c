"""What this machine's processor can do with eight bits.

Owns the question alone::

    instructions_for_int8()      # "avx512_vnni", or nothing
"""

import platform
from collections.abc import Callable
from pathlib import Path

__all__ = ["CpuFlags", "cpu_flags", "instructions_for_int8"]

CpuFlags = Callable[[], frozenset[str]]
"""Tells what the processor can do, in Linux' words."""

# In the order of preference. Without one of them, products of eight bits are slower than float32
# ones, and on older x86 processors they saturate, which costs accuracy.
_WANTED = ("amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "i8mm", "asimddp")


def cpu_flags() -> frozenset[str]:
    """Return the flags that Linux reports; on a Mac with an M processor, those that all have."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return frozenset(["asimddp"])
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def instructions_for_int8(flags: CpuFlags = cpu_flags) -> str | None:
    """Name the instructions that make eight-bit products fast here; ``None`` if there are none."""
    have = flags()
    return next((name for name in _WANTED if name in have), None)
