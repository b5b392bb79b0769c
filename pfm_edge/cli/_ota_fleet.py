"""`pfm-edge ota enrol | status`: which devices count, and what they stated."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfm_edge.cli._console import bar, print_json, print_table, say, table
from pfm_edge.cli._ota_options import Json, Repository, open_repository
from pfm_edge_runtime.errors import RepositoryError

if TYPE_CHECKING:
    from pfm_edge.ota import FleetStatus, RepositoryState

__all__ = ["enrol_command", "status_command"]


def enrol_command(
    repository: Repository,
    keys: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DEVICE.pub…", help="Public keys of pfm-device init."),
    ] = None,
    retire: Annotated[
        list[str] | None,
        typer.Option(metavar="KEYID", help="A device that counts no longer; may be repeated."),
    ] = None,
) -> None:
    """Enrol devices, by public keys that came some other way than with their receipts.

    Example: pfm-edge ota enrol repo camera-17.pub
    """
    from pfm_edge import ota

    if not keys and not retire:
        raise typer.BadParameter("name the public key of a device, or one to --retire")
    opened = open_repository(repository)
    for key_id in ota.enrol(opened, keys or ()):
        typer.echo(key_id)
    for key_id in ota.retire(opened, retire or ()):
        say(f"retired: {key_id}")


def status_command(
    repository: Repository,
    receipts: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Receipts of devices, with all below DIR.")
    ] = None,
    late_after: Annotated[
        int,
        typer.Option(
            metavar="DAYS", min=0, max=99_999, help="A device is late so many days after an order."
        ),
    ] = 7,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page of it, too; needs --receipts.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is in force, and what enrolled devices stated about every order to forget.

    Exits with 1 when the repository cannot go on, or does not serve what is in force.

    Example: pfm-edge ota status repo --receipts receipts --html status.html
    """
    from pfm_edge import ota

    if html is not None and receipts is None:
        raise typer.BadParameter("--html needs --receipts")
    opened = open_repository(repository)
    state = ota.repository_state(opened)
    fleet = None
    if receipts is not None:
        with bar("receipts") as progress:
            fleet = ota.fleet_status(
                opened, receipts, late_after=timedelta(days=late_after), progress=progress
            )
    if fleet is not None and html is not None:
        from pfm_edge_runtime.store import write_atomic

        write_atomic(html, ota.fleet_page(fleet))
    if as_json:
        print_json({**state.as_dict(), "fleet": None if fleet is None else fleet.as_dict()})
    else:
        _print_state(state)
        if fleet is not None:
            _print_fleet(fleet)
    for each in state.problems:
        say(each)
    if state.problems:
        raise RepositoryError(f"{repository}: it is not as it should be: see the lines above")


def _print_state(state: "RepositoryState") -> None:
    roles = [
        [
            each.role,
            str(each.version),
            each.expires + (" EXPIRED" if each.expired else ""),
            f"{each.threshold} of {len(each.keys)}",
            " ".join(f"{key_id[:16]}…" for key_id in each.keys),
        ]
        for each in state.roles
    ]
    print_table(table("roles", ["role", "version", "until", "must sign", "keys"], roles))
    models = [[m.model_id, m.stable or "-", m.candidate or "-", m.rollout] for m in state.models]
    print_table(table("models", ["model", "stable", "candidate", "rollout"], models))
    for class_id in state.overdue:
        say(f"class {class_id} was forgotten here, and devices still get it: pfm-edge ota forget")
    if state.pending:
        say(f"a change ({state.pending}) waits for signatures")


def _print_fleet(fleet: "FleetStatus") -> None:
    from pfm_edge.ota import WORTH

    rows = [
        [
            each.order_id,
            each.time,
            str(len(each.class_ids)),
            f"{len(each.stated)} of {fleet.enrolled}",
            str(len(each.waiting)),
            str(len(each.late)),
            str(len(each.doubtful)),
        ]
        for each in fleet.orders
    ]
    names = ["order", "given", "classes", "stated", "waiting", "late", "set apart"]
    print_table(table(f"forget list {fleet.forget_list.number}", names, rows))
    found = fleet.receipts
    for key_id, count in found.unknown.items():
        say(f"unknown device {key_id}: {count} receipts; enrol it if it is one of yours")
    for key_id in found.duplicated:
        say(f"duplicated: {key_id} stated two things at one place of its ledger; two machines?")
    for key_id in found.regressed:
        say(f"regressed: the ledger of {key_id} went back; was its state restored from a backup?")
    for name, reason in found.unreadable.items():
        say(f"no valid receipt: {name}: {reason}")
    say(WORTH)
