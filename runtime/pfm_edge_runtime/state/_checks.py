"""The checks of a device's state: what is wrong with it, what follows, and how to mend it.

Owns the part of ``pfm-device doctor`` that knows the state's files. To look changes nothing::

    for check in examine_state(directory, require_state=True):
        check.name, check.status, check.finding, check.fix

    mend_state(directory)        # what can be mended without a loss; returns what was done
"""

# ruff: noqa: PTH101 (system calls by name: the fault tests count them)

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pfm_edge_runtime.erasure import erase, old_bytes
from pfm_edge_runtime.errors import KeyFileError, StateError, StateMissingError
from pfm_edge_runtime.keys import public_from_pem, public_to_pem
from pfm_edge_runtime.state._creation import read_key
from pfm_edge_runtime.state._device import DeviceState
from pfm_edge_runtime.state._layout import (
    KEY_FILE,
    PUBLIC,
    Layout,
    locked,
    put,
    read_file,
    refused,
    try_lock,
)
from pfm_edge_runtime.state._repair import examine_ledger, repair_ledger

__all__ = [
    "Check",
    "CheckStatus",
    "disk_check",
    "examine_rest",
    "examine_state",
    "mend_state",
]

CheckStatus: TypeAlias = Literal["note", "ok", "problem"]

_REPAIR = "pfm-device doctor --repair"
_MAX_KEY_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Check:
    """What one look found.

    Attributes:
        name: What was looked at, one word.
        status: ``"ok"``; ``"note"``: worth knowing; ``"problem"``: to be mended.
        finding: What was found, one line.
        fix: What to do about it; empty where there is nothing to do, or the finding says it.
    """

    name: str
    status: CheckStatus
    finding: str
    fix: str = ""


def examine_state(directory: Path, *, require_state: bool) -> Iterator[Check]:
    """Look at a state, without its package.

    Args:
        directory: Where it is.
        require_state: Whether a state that is missing, or names nobody to trust, is a problem.
    """
    layout = Layout(directory)
    try:
        ledger = tuple(_ledger(directory))
    except StateMissingError:
        yield Check(
            "state",
            "problem" if require_state else "note",
            f"{directory} holds none yet",
            "pfm-device init --key ISSUER.pub; without it the first open of a package makes one "
            "that trusts on first use",
        )
        return
    yield Check("state", "ok", str(directory))
    yield from _access(layout)
    yield from ledger
    try:
        state = DeviceState.open(directory)
    except StateError as error:
        yield Check("memory", "problem", str(error))
    else:
        yield from _identity(state, layout)
        yield _trust(state, require_state=require_state)
        yield from _repository(state)
    yield from _lock(layout)
    yield disk_check("state disk", layout.ledger)


def examine_rest(directory: Path) -> Iterator[Check]:
    """Look for what waits to be done, once every package at hand was opened."""
    try:
        pending = DeviceState.open(directory).memory.pending
        leftovers = Layout(directory).leftovers()
    except (StateError, OSError):  # examine_state has said it
        return
    waiting = [each for records in pending.values() for each in records]
    if waiting:
        first = ", ".join(sorted({each.class_id for each in waiting})[:3])
        yield Check(
            "erasures",
            "problem",
            f"{len(waiting)} forgotten, not yet erased, such as {first}",
            "pfm-device doctor MODEL, with each package that held them; one that is no more "
            "needs nothing",
        )
    else:
        yield Check("erasures", "ok", "whatever was forgotten is erased")
    if leftovers:
        names = ", ".join(each.name for each in leftovers[:3])
        # A copy of the ledger or of what is known of a repository is nobody's secret: a power cut
        # must not keep a device from starting for it.
        secret = any(each.name.startswith(f".{KEY_FILE}.") for each in leftovers)
        yield Check("leftovers", "problem" if secret else "note", f"a crash left {names}", _REPAIR)


def disk_check(name: str, path: Path) -> Check:
    """Say whether overwriting reaches the old bytes on the disk that holds ``path``."""
    found = old_bytes("overwritten", path)
    if found.in_place:
        return Check(name, "ok", f"{found.file_system} overwrites in place")
    what = "does not overwrite" if found.in_place is False else "may not overwrite"
    return Check(
        name,
        "note",
        f"{found.file_system} {what} in place: erased bytes may stay on the medium",
        "keep it on ext4 or xfs, on an encrypted disk",
    )


def mend_state(directory: Path) -> list[str]:
    """Mend what can be mended without a loss; return what was done, a line each.

    Raises:
        StateMissingError: There is no state.
        StateError: It cannot be read.
        StorageError: The disk refused.
    """
    layout, done = Layout(directory), []
    repair = repair_ledger(directory)
    if repair is not None:
        done.append(
            f"damaged pieces of the ledger that are skipped from now on: {len(repair.damage)}; "
            f"class ids legible in them, which stay forgotten: {len(repair.forgotten)}; if there "
            "were others, forget them again"
        )
    with locked(layout), refused(directory, "run it again"):
        for path, mode in layout.modes.items():
            if path.exists() and stat.S_IMODE(path.stat().st_mode) & ~mode:
                os.chmod(path, stat.S_IMODE(path.stat().st_mode) & mode)
                done.append(f"took access to {path} from others")
        for leftover in layout.leftovers():
            erase(leftover)  # it may hold a key
            done.append(f"erased {leftover}")
        key = read_key(layout)
        if not _is_public_key(layout, key.public):
            put(layout.public_key, public_to_pem(key.public), PUBLIC)
            done.append(f"wrote {layout.public_key} again")
    return done


def _access(layout: Layout) -> Iterator[Check]:
    """Look for files that others may read or write, or that belong to somebody else."""
    wrong, found = 0, {}
    try:
        owner = layout.directory.stat().st_uid
        for path in layout.modes:
            with suppress(FileNotFoundError):
                found[path] = path.stat()
    except OSError as error:
        finding = f"{error.filename} cannot be looked at: {error.strerror or error}"
        yield Check("access", "problem", finding, "run it as the user that the state belongs to")
        return
    for path, status in found.items():
        mode, most = stat.S_IMODE(status.st_mode), layout.modes[path]
        if mode & ~most:
            wrong += 1
            yield Check("access", "problem", f"{path} has mode {mode:o}, not {most:o}", _REPAIR)
        if status.st_uid != owner:
            wrong += 1
            finding = f"{path} belongs to user {status.st_uid}, its directory to user {owner}"
            yield Check("access", "problem", finding, f"chown {owner} {path}")
    if not wrong:
        yield Check("access", "ok", "for its owner alone")


def _ledger(directory: Path) -> Iterator[Check]:
    try:
        found = examine_ledger(directory)
    except StateMissingError:
        raise
    except StateError as error:
        yield Check("ledger", "problem", str(error))
        return
    for problem in found.problems:
        yield Check(
            "ledger",
            "problem",
            problem,
            f"a backup of the ledger; or {_REPAIR}, which goes on with what is intact",
        )
    if found.torn_bytes:
        finding = f"a power cut tore a record of {found.torn_bytes} bytes; the next one replaces it"
        yield Check("ledger", "note", finding)
    if not found.problems:
        yield Check("ledger", "ok", f"{found.records} records, each after the one before")


def _identity(state: DeviceState, layout: Layout) -> Iterator[Check]:
    if _is_public_key(layout, state.public_key):
        yield Check("key", "ok", f"{state.device}, public key in {layout.public_key}")
    else:
        yield Check("key", "problem", f"{layout.public_key} is not the device's key", _REPAIR)
    if state.memory.identity.machine is None:
        yield Check("machine", "note", "bound to none: a copy of the state would not be noticed")
    else:
        yield Check("machine", "ok", "bound to this one")


def _trust(state: DeviceState, *, require_state: bool) -> Check:
    if state.trust is not None:
        trust = state.trust
        needed = f"trusted keys: {len(trust.keys)}, of which must have signed: {trust.threshold}"
        return Check("trust", "ok", needed)
    pins = state.memory.pins
    finding = f"on first use; models so far: {len(pins)}"
    if require_state and not any(pins.values()):
        told = state.directory.joinpath("trust", "repository.json").exists()
        told_by_key = "pfm-device init --replace-trust --key ISSUER.pub"
        return Check(
            "trust", "problem", finding, "pfm-device update MODEL" if told else told_by_key
        )
    return Check("trust", "note", finding)


def _repository(state: DeviceState) -> Iterator[Check]:
    """Say what is known of the repository that updates come from, if there is one."""
    try:
        known = state.repository()
    except StateError as error:
        yield Check("repository", "problem", str(error))
        return
    if known is None:
        return
    if known.forget is None:
        yield Check("repository", "note", "known, and not seen yet", "pfm-device update MODEL")
        return
    signs = f"{known.forget.threshold} of {len(known.forget.keys)} keys sign its forget list"
    yield Check("repository", "ok", f"known; {signs}")


def _lock(layout: Layout) -> Iterator[Check]:
    try:
        free = try_lock(layout)
    except OSError as error:
        yield Check(
            "lock",
            "problem",
            f"{layout.lock} cannot be opened: {error.strerror or error}; nothing can be forgotten",
            "run it as the user that the state belongs to, on a disk that can be written",
        )
        return
    yield Check("lock", "ok" if free else "note", "free" if free else "held by a process just now")


def _is_public_key(layout: Layout, public: bytes) -> bool:
    try:
        return public_from_pem(read_file(layout.public_key, _MAX_KEY_BYTES)) == public
    except (KeyFileError, StateError, FileNotFoundError):
        return False
