"""A fleet of 60 devices follows a rollout as it is signed, and every one says that it forgot.

``python -m benchmarks ota_fleet`` does the same with 1,000; docs/ota-figures.md has the figures.
"""

import os
from pathlib import Path
from unittest import mock

from pfm_edge.ota import fleet_status
from tests.support.ota_fleet import Fleet
from tests.support.ota_server import FileServer
from tests.support.ota_world import World

_DEVICES = 60


def test_a_fleet(tmp_path: Path) -> None:
    with mock.patch.object(os, "fsync"):  # sixty devices do not share one disk
        world = World.create(tmp_path / "world")
        world.publish()
        fleet = Fleet.create(world, _DEVICES)
        with FileServer(world.public) as server:
            assert fleet.poll(server.url) == {"updated": _DEVICES}
            ten, fifty, hundred = fleet.roll_out(server.url, "daisy", "rose", "tulip")
            assert ten < fifty < hundred == _DEVICES
            world.forget("rose", order="order-1")
            assert fleet.poll(server.url) == {"updated": _DEVICES}
            server.forget_requests()
            assert fleet.poll(server.url) == {"up-to-date": _DEVICES}
            assert len(server.requests) == 2 * _DEVICES
        assert fleet.labels() == {("daisy", "tulip"): _DEVICES}
        status = fleet_status(world.repository, fleet.receipts)
        (order,) = status.orders
        assert order.order_id == "order-1"
        assert (status.enrolled, len(order.stated), order.erased) == (_DEVICES,) * 3
