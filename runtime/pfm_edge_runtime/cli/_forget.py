"""``pfm-device forget``: remove classes for good."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pfm_edge_runtime.cli._arguments import Commands, add_command
from pfm_edge_runtime.cli._names import LABEL_WARNING, read_names
from pfm_edge_runtime.cli._output import note, write_json, write_row
from pfm_edge_runtime.errors import ErasurePendingError

if TYPE_CHECKING:
    from pfm_edge_runtime.forgetting import Forgotten

__all__ = ["add_to"]

_EXAMPLE = """\
  pfm-device forget model/ 0f5c2a9be1d84c6f93a7d0e25b18c47a
  pfm-device forget model/ - < labels.txt
  pfm-device receipts show 0f5c2a9be1d84c6f93a7d0e25b18c47a
"""
_WARNING = (
    f"pfm-device: {LABEL_WARNING}: give class ids, or labels on standard input "
    "(pfm-device forget MODEL -)"
)


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "forget",
        "Forget classes for good: nothing brings them back, and each gets a signed receipt.",
        _EXAMPLE,
        _run,
    )
    parser.add_argument(
        "names",
        nargs="+",
        metavar="CLASS",
        help="class id or label; a single - reads one per line from standard input",
    )
    parser.add_argument(
        "--order",
        metavar="ID",
        help="who asked: a number or random id that the receipt repeats, nobody's words",
    )


def _run(arguments: argparse.Namespace) -> None:
    from pfm_edge_runtime.forgetting import forget_classes
    from pfm_edge_runtime.state import Order

    names = read_names(arguments.names, warn=lambda: note(_WARNING))
    forgotten = forget_classes(
        arguments.model,
        names,
        state=arguments.state,
        require_state=arguments.require_state,
        order=None if arguments.order is None else Order(arguments.order),
    )
    arguments.done = "the classes are forgotten all the same: pfm-device receipts list"
    if arguments.json:
        write_json(_as_json(forgotten))
    else:
        _write_lines(forgotten)
    for each in forgotten:
        if each.erased and each.problem:
            note(f"pfm-device: no receipt for {each.class_id}: {each.problem}")
    if waiting := [each for each in forgotten if not each.erased]:
        raise ErasurePendingError(
            f"{len(waiting)} of {len(forgotten)} forgotten, not yet erased: {waiting[0].problem}"
        )


def _as_json(forgotten: "Sequence[Forgotten]") -> dict[str, object]:
    return {
        "forgotten": [
            {
                "class_id": each.class_id,
                "erased": each.erased,
                "receipt": None if each.receipt is None else json.loads(each.receipt),
            }
            for each in forgotten
        ],
        "bytes_before": forgotten[0].bytes_before,
        "bytes_after": forgotten[0].bytes_after,
        "seconds": forgotten[0].seconds,
    }


def _write_lines(forgotten: "Sequence[Forgotten]") -> None:
    for each in forgotten:
        outcome = "erased, with a receipt" if each.receipt else "erased"
        if not each.erased:
            outcome = "refused, not yet erased"
        write_row(f"forgotten: {each.class_id} ({outcome})")
    first = forgotten[0]
    write_row(
        f"bundle: {first.bytes_before} bytes before, {first.bytes_after} after; "
        f"durable in {first.seconds * 1000:.1f} ms"
    )
