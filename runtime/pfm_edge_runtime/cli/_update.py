"""``pfm-device update``: bring a model up to date, and obey the forget list."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pfm_edge_runtime._phrases import class_count
from pfm_edge_runtime.cli._arguments import Commands, add_command, positive
from pfm_edge_runtime.cli._output import note, printable, write_json, write_row
from pfm_edge_runtime.cli._progress import Progress

if TYPE_CHECKING:
    from types import FrameType

    from pfm_edge_runtime.ota.report import UpdateReport
    from pfm_edge_runtime.ota.source import Source
    from pfm_edge_runtime.ota.stopping import Stopping

__all__ = ["add_to"]

_EXAMPLE = """\
  pfm-device update model/ --repo https://updates.example/public
  pfm-device update model/ --repo https://updates.example/public --every 15m
  pfm-device update model/ --from /media/stick/public --receipts /media/stick/receipts

exit codes: 0 up to date or updated, 1 something to mend, 2 usage, 75 try again later
"""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "update",
        "Obey the forget list of a repository, and take the newest bundle from it.",
        _EXAMPLE,
        _run,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--repo", metavar="URL", help="a publisher's public folder on a server")
    where.add_argument(
        "--from",
        type=Path,
        metavar="PATH",
        dest="path",
        help="a copy of that folder, or a forget list alone; how old it is is not asked",
    )
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--once", action="store_true", help="update once and end (the default)")
    when.add_argument(
        "--every",
        type=_duration,
        metavar="TIME",
        help="update again and again, as 15m; the pauses vary by half, and SIGTERM ends it",
    )
    _add_limits(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--receipts",
        metavar="URL|DIR",
        help="where receipts go (default: they stay in ota/outbox of the device's memory)",
    )
    parser.add_argument(
        "--cohort", metavar="NAME", help="this device's cohort (default: as pfm-device init set it)"
    )
    parser.add_argument(
        "--max-bytes",
        type=positive,
        metavar="N",
        help="bytes that one update may cost, both ways, without headers",
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=30,
        metavar="SECONDS",
        help="for one request, and a second more for every 4 KiB of it (default: 30)",
    )


def _run(arguments: argparse.Namespace) -> None:
    from pfm_edge_runtime.ota._receivers import require_receiver
    from pfm_edge_runtime.ota.options import UpdateOptions
    from pfm_edge_runtime.ota.polling import poll
    from pfm_edge_runtime.ota.source import open_source

    source = open_source(arguments.path if arguments.repo is None else _url(arguments.repo))
    # Wrong options are said once, before anything is done with them.
    UpdateOptions(cohort=arguments.cohort, timeout=arguments.timeout)
    if arguments.receipts is not None:
        require_receiver(arguments.receipts)
    with _stopped_by_signals() as stopping:

        def update() -> "UpdateReport":
            return _update(arguments, source, stopping)

        if arguments.every is not None:
            poll(lambda: _told(update()), every=arguments.every, wait=stopping.wait)
        elif (error := update().error) is not None:
            raise error


def _update(
    arguments: argparse.Namespace, source: "Source", stopping: "Stopping"
) -> "UpdateReport":
    """Make one update, and write what it came to."""
    from pfm_edge_runtime.ota.options import UpdateOptions
    from pfm_edge_runtime.ota.update import update_model

    with _Downloads() as downloads:
        options = UpdateOptions(
            cohort=arguments.cohort,
            receipts=arguments.receipts,
            max_bytes=arguments.max_bytes,
            timeout=float(arguments.timeout),
            require_state=arguments.require_state,
            progress=downloads.tell,
            stopping=stopping,
        )
        report = update_model(arguments.model, source, state=arguments.state, options=options)
    if arguments.json:
        write_json(report.as_dict())
    else:
        _write_lines(report)
    arguments.done = "the update is done all the same"
    return report


def _told(report: "UpdateReport") -> "UpdateReport":
    """Say what went wrong, and go on."""
    sys.stdout.flush()
    if report.problem is not None:
        note(f"pfm-device: {printable(report.problem)}")
    return report


def _write_lines(report: "UpdateReport") -> None:
    write_row("outcome", report.outcome)
    if report.place is not None:
        write_row("place", f"epoch {report.place.epoch}, sequence {report.place.sequence}")
    if (found := report.forgotten) is not None:
        write_row(
            "forget list",
            f"number {found.number}, {class_count(found.rows)}: {found.applied} forgotten here "
            f"just now, {found.absent} new ones that were not here",
        )
    write_row("receipts", f"{report.sent} sent, {report.waiting} waiting")
    write_row("wire", f"{report.requests} requests, {report.bytes} bytes")


def _url(text: str) -> str:
    from pfm_edge_runtime.errors import ConfigError
    from pfm_edge_runtime.ota.source import is_url

    if not is_url(text):
        raise ConfigError("--repo needs an http:// or https:// URL; --from takes a directory")
    return text


def _duration(text: str) -> float:
    from pfm_edge_runtime.errors import ConfigError
    from pfm_edge_runtime.ota.polling import parse_duration

    try:
        return parse_duration(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@contextmanager
def _stopped_by_signals() -> Iterator["Stopping"]:
    """Let SIGTERM and SIGINT end the waiting; what is being written ends first."""
    from pfm_edge_runtime.ota.stopping import Stopping

    stopping = Stopping()

    def stop(_number: int, _frame: "FrameType | None") -> None:
        stopping.request()

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Downloads(ExitStack):
    """Says how far a download is, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._seen = 0

    def tell(self, here: int, total: int) -> None:
        """Take note of how many bytes are here."""
        if self._progress is None or here < self._seen:
            self.close()
            self._progress = self.enter_context(Progress("downloaded", total, unit="bytes"))
            self._seen = 0
        self._progress.advance(here - self._seen)
        self._seen = here
