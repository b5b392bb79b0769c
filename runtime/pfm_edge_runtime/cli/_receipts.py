"""``pfm-device receipts``: what the device states about the classes that it erased."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pfm_edge_runtime.cli._arguments import (
    Commands,
    add_plain_command,
    add_state_argument,
    read_public_key_file,
)
from pfm_edge_runtime.cli._output import note, write_json, write_row
from pfm_edge_runtime.errors import EnvelopeError, SignatureError, UnknownClassError

if TYPE_CHECKING:
    from pfm_edge_runtime.state import AbsentRecord, DeviceState, ErasedRecord

__all__ = ["add_to"]

_EXAMPLE = """\
  pfm-device receipts list
  pfm-device receipts show 0f5c2a9be1d84c6f93a7d0e25b18c47a > receipt.json
  pfm-device receipts verify receipt.json --key device.pub
"""
_STANDARD_INPUT = Path("-")
_MAX_RECEIPT_BYTES = 2**20


def add_to(commands: Commands) -> None:
    """Declare the command and its three parts."""
    summary = "List, show and verify receipts: signed statements about erased classes."
    parser = commands.add_parser(
        "receipts",
        help=summary,
        description=summary,
        epilog=f"example:\n{_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = add_plain_command(
        parts, "list", "List the receipts: number, time, class id, outcome.", _EXAMPLE, _list
    )
    add_state_argument(listing)
    show = add_plain_command(
        parts, "show", "Write one receipt: a DSSE envelope, JSON on one line.", _EXAMPLE, _show
    )
    show.add_argument("which", metavar="CLASS_ID|NUMBER", help="class id, or number in the list")
    add_state_argument(show)
    verify = add_plain_command(
        parts,
        "verify",
        "Verify a receipt, on any machine, and say what it states.",
        _EXAMPLE,
        _verify,
    )
    verify.add_argument(
        "receipt", type=Path, metavar="FILE", help="the receipt; - reads standard input"
    )
    verify.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="device.pub",
        help="public key of the device that should have made it",
    )


def _open(arguments: argparse.Namespace) -> "DeviceState":
    from pfm_edge_runtime.state import DeviceState, default_state_directory

    return DeviceState.open(arguments.state or default_state_directory())


def _list(arguments: argparse.Namespace) -> None:
    state = _open(arguments)
    records = list(state.memory.receipts())
    if arguments.json:
        write_json({"receipts": [_facts(each) for each in records]})
        return
    for each in records:
        write_row(str(each.number), each.moment.time, each.class_id, each.kind)
    waiting = sum(len(each) for each in state.memory.pending.values())
    if waiting:
        note(f"{waiting} forgotten, not yet erased: pfm-device doctor MODEL")
    if not records:
        note("no class was erased on this device")


def _show(arguments: argparse.Namespace) -> None:
    from pfm_edge_runtime.receipts import make_receipt

    state = _open(arguments)
    write_row(make_receipt(_find(state, arguments.which), state))


def _find(state: "DeviceState", which: str) -> "AbsentRecord | ErasedRecord":
    """Return the first record of that class, or the one of that number.

    Raises:
        UnknownClassError: There is none.
    """
    for each in state.memory.receipts():
        if which in {each.class_id, str(each.number)}:
            return each
    if any(each.class_id == which for some in state.memory.pending.values() for each in some):
        raise UnknownClassError(
            "that class is forgotten, but not yet erased: pfm-device doctor MODEL tries again"
        )
    raise UnknownClassError(
        "no receipt has that class id or number; pfm-device receipts list shows them"
    )


def _verify(arguments: argparse.Namespace) -> None:
    from pfm_edge_runtime.receipts import verify_receipt

    public = read_public_key_file(arguments.key)
    path: Path = arguments.receipt
    try:
        facts = verify_receipt(_read(path), public)
    except (EnvelopeError, SignatureError) as error:
        raise type(error)(f"{path}: {error}") from error
    if arguments.json:
        write_json({"verified": True, "claim_level": facts.claim_level, **_facts(facts.record)})
        return
    write_row(f"verified: the device states this, at claim level {facts.claim_level}")
    for name, value in _facts(facts.record).items():
        if isinstance(value, bool):
            write_row(name.replace("_", " "), "yes" if value else "no")
        elif value is not None:
            write_row(name.replace("_", " "), str(value))


def _read(path: Path) -> bytes:
    """Read a receipt.

    Raises:
        EnvelopeError: It cannot be read.
    """
    from pfm_edge_runtime.store import without_waiting

    try:
        if path == _STANDARD_INPUT:
            return sys.stdin.buffer.read(_MAX_RECEIPT_BYTES)
        with open(path, "rb", opener=without_waiting) as file:
            return file.read(_MAX_RECEIPT_BYTES)
    except (AttributeError, OSError) as error:  # standard input may be closed
        reason = error.strerror if isinstance(error, OSError) else "it is closed"
        raise EnvelopeError(f"it cannot be read: {reason}") from error


def _facts(record: "AbsentRecord | ErasedRecord") -> dict[str, object]:
    from pfm_edge_runtime.state import ErasedRecord

    facts: dict[str, object] = {
        "number": record.number,
        "outcome": record.kind,
        "class_id": record.class_id,
        "model_id": record.model_id,
        "bundle": record.bundle,
        "order": None if record.order is None else record.order.id,
        "time": record.moment.time,
        "clock": record.moment.clock,
    }
    if isinstance(record, ErasedRecord):
        facts |= {
            "statement": record.statement,
            "entry_digest": record.entry_digest,
            "old_bytes": record.old_bytes.method,
            "file_system": record.old_bytes.file_system,
            "in_place": record.old_bytes.in_place,
        }
    return facts | {"device": record.device, "software": record.software, "head": record.digest}
