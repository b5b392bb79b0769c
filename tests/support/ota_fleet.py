"""A fleet of simulated devices: each with a package, a memory and a key of its own, and one client.

Owns what the test of 60 devices and the benchmark of 1,000 share. Graph, golden vectors and
manifest are one file on the disk (hard links), the bundle is every device's own; the client is the
real one, run by threads::

    fleet = Fleet.create(world, 60)
    fleet.poll(server.url)                    # Counter({"updated": 60})
    fleet.roll_out(server.url)                # 10, 50, 100 percent, each as signed
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pfm_edge.ota import RolloutRequest, enrol, set_rollout
from pfm_edge_runtime.bundle import Bundle
from pfm_edge_runtime.ota.channel import share_of
from pfm_edge_runtime.ota.report import UpdateReport
from pfm_edge_runtime.state import DeviceState, RepositoryTrust
from tests.support.ota_world import Device, World
from tests.support.tiny_package import MODEL_ID

__all__ = ["STEPS", "Fleet"]

STEPS = (10, 50, 100)
_PARTS_A_PERCENT = 100
_OWN = "bundle.safetensors"


@dataclass
class Fleet:
    """Devices of one publisher.

    Attributes:
        world: The publisher.
        devices: The devices.
        receipts: A directory that all of them send receipts to.
        threads: How many of them ask at a time.
        ids: The id of each device's key.
    """

    world: World
    devices: list[Device]
    receipts: Path
    threads: int = 8
    ids: list[str] = field(default_factory=list)

    @classmethod
    def create(cls, world: World, count: int) -> "Fleet":
        """Make devices that know the publisher's root, and enrol them."""
        receipts = world.root / "receipts"
        receipts.mkdir()
        devices, ids = [], []
        for number in range(count):
            device = Device(world, world.root / "fleet" / f"{number:04d}")
            device.model.mkdir(parents=True)
            for each in (world.root / "package").iterdir():
                copy = shutil.copy if each.name == _OWN else os.link
                copy(each, device.model / each.name)
            state = DeviceState.create(device.state, trust=None, bind=False)
            state.know_repository(RepositoryTrust(root=world.first_root))
            devices.append(device)
            ids.append(state.device)
        enrol(world.repository, [each.state / "device.pub" for each in devices])
        return cls(world, devices, receipts, ids=ids)

    def poll(self, url: str, done: Callable[[int], None] = lambda _: None) -> Counter[str]:
        """Let every device ask once; return what it came to, by outcome."""
        outcomes: Counter[str] = Counter()
        with ThreadPoolExecutor(self.threads) as pool:
            reports: Iterable[UpdateReport] = pool.map(
                lambda device: device.update(url, receipts=str(self.receipts)), self.devices
            )
            for report in reports:
                assert report.problem is None, report
                outcomes[report.outcome] += 1
                done(outcomes.total())
        return outcomes

    def roll_out(self, url: str, *labels: str) -> list[int]:
        """Roll a bundle out in steps; return how many devices had it after each.

        Each step has exactly the devices whose share of the signed salt is below its percent.
        """
        counts = []
        for percent in STEPS:
            if percent == STEPS[0]:
                self.world.publish(*labels, rollout=RolloutRequest(percent))
            else:
                set_rollout(self.world.repository, MODEL_ID, percent)
            self._salt = self._salt_of_the_candidate() or self._salt
            self.poll(url)
            newest = self.newest
            have = {each for each, device in self.by_id if device.sequence == newest}
            meant = {
                each for each in self.ids if share_of(self._salt, each) < percent * _PARTS_A_PERCENT
            }
            assert have == meant
            counts.append(len(have))
        return counts

    @property
    def newest(self) -> tuple[int, int]:
        """Where the newest bundle stands."""
        channel = self.world.channel
        release = channel.candidate or channel.stable
        assert release is not None
        return release.epoch, release.sequence

    @property
    def by_id(self) -> Iterable[tuple[str, Device]]:
        """Each device with the id of its key."""
        return zip(self.ids, self.devices, strict=True)

    def labels(self) -> Counter[tuple[str, ...]]:
        """Count the devices by the classes that their bundles hold."""
        found = (Bundle.from_bytes((each.model / _OWN).read_bytes()) for each in self.devices)
        return Counter(tuple(sorted(each.labels)) for each in found)

    _salt: str = ""

    def _salt_of_the_candidate(self) -> str:
        candidate = self.world.channel.candidate
        return candidate.rollout.salt if candidate is not None and candidate.rollout else ""
