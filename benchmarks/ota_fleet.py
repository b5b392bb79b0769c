"""A fleet of 1,000 simulated devices with the real client, against one server on loopback.

They take a first bundle, follow a rollout of 10, 50 and 100 percent, forget a class over the air,
and send receipts; then figures for 10^6 devices follow by arithmetic.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeAlias
from unittest import mock

from benchmarks._nginx import NginxServer
from pfm_edge.ota import fleet_status
from tests.support.ota_fleet import STEPS, Fleet
from tests.support.ota_server import FileServer
from tests.support.ota_world import World

__all__ = ["run"]

_DEVICES = 1000
_MANY = 10**6
_SECONDS_AN_HOUR = 3600
_SERVERS = {
    NginxServer: "one nginx with configs/ota-nginx.conf",
    FileServer: "one Python file server in the same process, whose CPU time counts,",
}

_Server: TypeAlias = NginxServer | FileServer


def run() -> str:
    """Measure; returns a section of Markdown."""
    with tempfile.TemporaryDirectory() as name, mock.patch.object(os, "fsync"):
        world = World.create(Path(name) / "world")
        world.publish()
        fleet = Fleet.create(world, _DEVICES)
        with _server(world.public) as server:
            rows = [_step("a first bundle", fleet, server)]
            with _counted(server) as found:
                shares = fleet.roll_out(server.url, "daisy", "rose", "tulip")
            steps = ", ".join(f"{n} at {p} %" for n, p in zip(shares, STEPS, strict=True))
            rows.append(_row(f"a rollout, three polls each: {steps}", found))
            world.forget("rose", order="order-1")
            rows.append(_step("one class forgotten, the bundle issued again", fleet, server))
            steady = _step("a steady poll", fleet, server)
            rows.append(steady)
        (order,) = fleet_status(world.repository, fleet.receipts).orders
        stated, bundles = len(order.stated), dict(fleet.labels())
    if stated != _DEVICES or bundles != {("daisy", "tulip"): _DEVICES}:
        raise RuntimeError(f"the fleet did not converge: {stated} receipts, {bundles}")
    return (
        "## A fleet (`python -m benchmarks ota_fleet`)\n\n"
        f"{_DEVICES:,} simulated devices, each with its own package, memory and key, the real "
        f"client and a health check on the tiny model of the tests; {_SERVERS[type(server)]} on "
        "loopback. Bytes: headers and both directions, at the server.\n\n"
        "| step | devices | requests | bytes | a device | CPU ms a device |\n"
        "|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nAll converged; {stated:,} of {_DEVICES:,} enrolled devices stated that the class "
        f"is erased.\n{_extrapolated(steady)}"
    )


def _server(folder: Path) -> _Server:
    """Return nginx, where this machine has it."""
    return NginxServer(folder) if NginxServer.is_installed() else FileServer(folder)


class _Found:
    requests = 0
    bytes = 0
    seconds = 0.0


@contextmanager
def _counted(server: _Server) -> Iterator[_Found]:
    server.forget_requests()
    found, started = _Found(), process_time()
    yield found
    found.seconds = process_time() - started
    found.requests, found.bytes = server.counts


def _step(what: str, fleet: Fleet, server: _Server) -> str:
    started = perf_counter()
    with _counted(server) as found:
        fleet.poll(server.url)
    print(f"  {what}: {perf_counter() - started:.0f} s", file=sys.stderr)
    return _row(what, found)


def _row(what: str, found: _Found) -> str:
    return (
        f"| {what} | {_DEVICES:,} | {found.requests:,} | {found.bytes:,} "
        f"| {found.bytes // _DEVICES:,} | {1e3 * found.seconds / _DEVICES:.0f} |"
    )


def _extrapolated(steady: str) -> str:
    cells = [each.strip().replace(",", "") for each in steady.split("|")]
    requests, size = int(cells[3]) / _DEVICES, int(cells[4]) / _DEVICES
    polls = _MANY / _SECONDS_AN_HOUR
    return (
        f"\n{_MANY:,} devices that poll once an hour: {_MANY:,} / {_SECONDS_AN_HOUR:,} s = "
        f"{polls:.0f} polls a second, x {requests:.0f} requests = {polls * requests:.0f} requests "
        f"a second, x {size:,.0f} bytes a poll = {polls * size / 1e6:.2f} MB a second, "
        f"{24 * _MANY * size / 1e9:.0f} GB a day.\n"
    )
