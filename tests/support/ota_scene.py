"""The scene of every attack: a device that is up to date and forgot a class, and a bad server.

Owns what the attack tests share. The publisher published four classes, the device took them, then
the publisher forgot "rose" over the air and the device followed; ``old`` is what was served before
that, four classes and no order to forget::

    scene.attack(scene.old)                    # the device asks again, and is not moved
    thief = scene.thief("snapshot", "timestamp")
    thief.publish()
    scene.attack(scene.evil)                   # neither by what somebody made of stolen keys
    scene.recover()                            # the honest server is back: the device follows it

The scene is set once for a process and copied for each test.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from pfm_edge.ota import Role
from pfm_edge_runtime.ota.report import UpdateReport
from tests.support.ota_forge import Forge
from tests.support.ota_server import FileServer
from tests.support.ota_world import Device, World

__all__ = ["Scene", "set_scene"]

_STAY = {"daisy", "tulip", "violet"}


@dataclass
class Scene:
    """One device, one publisher, and what lies between them.

    Attributes:
        world: The publisher.
        device: The device.
        server: Serves the publisher's public folder, unless a test says otherwise.
        old: What was served before the class was forgotten.
    """

    world: World
    device: Device
    server: FileServer
    old: Path

    def attack(self, serving: Path, **options: Any) -> UpdateReport:
        """Let the device ask; it must be left as it was, and nothing may come back."""
        before = self.device.sequence, self.device.answers
        report = self.ask(serving, **options)
        assert report.error is not None, report
        assert (self.device.sequence, self.device.answers) == before
        return report

    @property
    def evil(self) -> Path:
        """A copy of what is served, where a thief writes."""
        folder = self.world.root / "evil"
        if not folder.exists():
            shutil.copytree(self.world.public, folder)
        return folder

    def thief(self, *roles: str) -> Forge:
        """Let somebody write there who holds the keys of these roles."""
        return self.world.thief(*roles, folder=self.evil)

    def ask(self, serving: Path | None = None, **options: Any) -> UpdateReport:
        """Let the device ask once."""
        self.server.folder = serving or self.world.public
        return self.device.update(self.server.url, **options)

    def follow(self, serving: Path | None = None, *, to: str = "updated") -> None:
        """Let the device ask once; it must come to what is served."""
        report = self.ask(serving)
        assert (report.outcome, report.problem) == (to, None), report

    def wipe_cache(self) -> None:
        """Remove all that an update left, as whoever makes room on a disk."""
        shutil.rmtree(self.device.state / "ota")

    def recover(self, *, rotating: bool = False) -> None:
        """Require that the honest server can bring the device something new, as ever.

        With new online keys, if need be: whoever has the old ones can hold devices up as long as
        these count, and do no more.
        """
        self.server.answers.clear()
        if rotating:
            for role in (Role.SNAPSHOT, Role.TIMESTAMP):
                self.world.rotate(role)
        self.world.publish("tulip", "violet")
        self.follow()
        assert self.device.answers == {"tulip", "violet"}


@contextmanager
def set_scene(root: Path) -> Iterator[Scene]:
    """Set the scene below a directory; nobody waits for the disk."""
    with mock.patch.object(os, "fsync"):
        made = _prepared()
        world = made.moved(root / "world")
        device = world.device(made=False)
        device.forgotten = {"rose"}
        with FileServer(world.public) as server:
            yield Scene(world, device, server, world.root / "old")


@cache
def _prepared() -> World:
    root = Path(tempfile.mkdtemp(prefix="pfm-scene-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    world = World.create(root / "world")
    world.publish()
    device = world.device()
    with FileServer(world.public) as server:
        assert device.update(server.url).outcome == "updated"
        world.copy_of_public("old")
        world.later(hours=1)
        world.forget("rose")
        assert device.update(server.url).outcome == "updated"
    device.forgotten = {"rose"}
    assert device.answers == _STAY
    return world
