"""A publisher, a server and devices, all of them real, small enough that a test may have several.

Owns how tests of updates set the scene. The publisher is ``pfm_edge.ota`` with a key file for each
role; the model is the tiny package, whose class i is "the i-th quarter is bright"::

    world = World.create(tmp_path)
    world.publish("daisy", "rose")
    device = world.device()
    device.update(server.url).outcome          # "updated"
    device.answers                             # {"daisy", "rose"}: what it says of four images
    world.forget("rose")

The clock is the world's: ``world.later(days=10)`` moves it for publisher and devices alike.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata

from pfm_edge._key_files import write_key_pair
from pfm_edge.ota import (
    InitRequest,
    KeyChange,
    OrderRequest,
    Outcome,
    PublisherRepository,
    Role,
    RolloutRequest,
    forget,
    init_repository,
    new_keys,
    publish,
    read_key,
    rotate_key,
)
from pfm_edge.registry import KnownClass, Registry
from pfm_edge_runtime.bundle import Bundle, ClassId
from pfm_edge_runtime.classifier import Classifier
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.forgetting import forget_classes
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.ota.channel import Channel
from pfm_edge_runtime.ota.options import UpdateOptions
from pfm_edge_runtime.ota.report import UpdateReport
from pfm_edge_runtime.ota.source import open_source
from pfm_edge_runtime.ota.update import update_model
from pfm_edge_runtime.state import DeviceState, RepositoryTrust
from tests.support.ota_forge import Forge
from tests.support.tiny_package import (
    INPUTS,
    LABELS,
    MODEL_ID,
    entries,
    quarter,
    write_tiny_package,
)

__all__ = ["Device", "World", "class_ids", "signer_of"]

NOW = datetime.now(timezone.utc).replace(microsecond=0)  # noqa: UP017 (Python 3.10 has no UTC)


def class_ids(*labels: str) -> list[ClassId]:
    """Return the ids that the classes of these labels have everywhere here."""
    known = {each.label: each.class_id for each in entries()}
    return [known[each] for each in labels]


def signer_of(key: SigningKey) -> CryptoSigner:
    """Return a key as TUF's library signs with it."""
    return CryptoSigner(load_pem_private_key(key.to_pem(), None))


@dataclass
class World:
    """What one test plays with.

    Attributes:
        root: Where everything lies.
        repository: The publisher's.
        now: What time it is.
    """

    root: Path
    repository: PublisherRepository
    now: datetime = NOW

    @classmethod
    def create(cls, root: Path, *, labels: Iterable[str] = LABELS) -> "World":
        """Make a publisher whose registry knows these labels, and that published nothing yet."""
        root.mkdir(parents=True, exist_ok=True)
        known = tuple(KnownClass(*pair) for pair in zip(class_ids(*labels), labels, strict=True))
        registry = root / "classes.json"
        registry.write_bytes(Registry(classes=known).to_bytes())
        world = cls(root, None)  # type: ignore[arg-type]
        request = InitRequest(registry, new_keys(root / "keys"))
        world.repository, outcome = init_repository(root / "repo", request, clock=world.clock)
        assert outcome.committed, outcome.missing
        write_tiny_package(root / "package")
        return world

    def clock(self) -> datetime:
        """Tell the time."""
        return self.now

    def later(self, **time: float) -> None:
        """Let time pass."""
        self.now += timedelta(**time)

    @property
    def public(self) -> Path:
        """What is served."""
        return self.repository.layout.public

    @property
    def channel(self) -> Channel:
        """The model's channel, as it is in force."""
        from pfm_edge.ota._current import Current

        found = Current.read(self.repository.layout).channel(MODEL_ID)
        assert found is not None
        return found

    def bundle(self, *labels: str, **changes: Any) -> Bundle:
        """Build a bundle of these classes, unsigned; ``changes`` as ``Bundle.build`` takes them."""
        manifest = (self.root / "package" / "manifest.json").read_bytes()
        chosen = [each for each in entries() if each.label in labels]
        return Bundle.build(
            **{
                "model_id": MODEL_ID,
                "manifest_digests": [digest_of(manifest)],
                "inputs": INPUTS,
                "entries": chosen,
                "issued_at": self.now,
                **changes,
            }
        )

    def publish(
        self, *labels: str, rollout: RolloutRequest | None = None, **changes: Any
    ) -> Outcome:
        """Publish the bundle of these classes; ``changes`` as for :meth:`bundle`."""
        found = self.bundle(*(labels or LABELS), **changes)
        return publish(self.repository, found, rollout=rollout)

    def forget(self, *labels: str, order: str = "") -> Outcome:
        """Forget these classes over the air."""
        return forget(self.repository, class_ids(*labels), order=OrderRequest(order))

    def rotate(self, role: Role, *, remove: bool = True, new_epoch: bool = False) -> None:
        """Give a role a new key, beside its first one or in its place."""
        name = "root-1" if role is Role.ROOT else role.value
        old, count = self.key(name), len(list((self.root / "keys").glob("*.pem")))
        path = self.root / "keys" / f"{role}-new-{count}.pem"
        write_key_pair(path, passphrase=None)
        gone = (old.key_id,) if remove else ()
        change = KeyChange((read_key(str(path)),), gone, new_epoch=new_epoch)
        outcome = rotate_key(self.repository, role, change)
        assert outcome.committed, outcome.missing
        if remove:
            (self.root / "keys" / f"{name}.pem").write_bytes(path.read_bytes())

    def key(self, name: str) -> SigningKey:
        """Return a role's private key: ``"bundles"``, ``"root-1"``."""
        return SigningKey.from_pem((self.root / "keys" / f"{name}.pem").read_bytes())

    def signers(self, name: str) -> list[Signer]:
        """Return a role's keys as TUF's library signs with them: both of the root."""
        names = ["root-1", "root-2"] if name == "root" else [name]
        keys = [(self.root / "keys" / f"{each}.pem").read_bytes() for each in names]
        return [CryptoSigner(load_pem_private_key(each, None)) for each in keys]

    def thief(self, *roles: str, folder: Path | None = None) -> Forge:
        """Let somebody write metadata who holds the keys of these roles, and of no other."""
        return Forge.open(folder or self.public, {role: self.signers(role) for role in roles})

    def moved(self, root: Path) -> "World":
        """Copy everything to another place, where it goes on by itself."""
        shutil.copytree(self.root, root)
        settings = root / "repo" / "repository.json"
        settings.write_text(settings.read_text().replace(f"{self.root}/", f"{root}/"))
        world = World(root, self.repository, self.now)
        world.repository = PublisherRepository(root / "repo", world.clock)
        return world

    def copy_of_public(self, name: str) -> Path:
        """Copy what is served: to a stick, or for a mirror that stays behind."""
        return Path(shutil.copytree(self.public, self.root / name))

    def device(self, name: str = "device", *, made: bool = True) -> "Device":
        """Make a device, or (``made=False``) return one that is there."""
        return self._new_device(name) if made else Device(self, self.root / name)

    def _new_device(self, name: str) -> "Device":
        """Make a device that knows the model, and the root of this publisher, and nothing more."""
        device = Device(self, self.root / name)
        device.root.mkdir()
        shutil.copytree(self.root / "package", device.model)
        state = DeviceState.create(device.state, trust=None, bind=False)
        state.know_repository(RepositoryTrust(root=self.first_root))
        return device

    @property
    def first_root(self) -> bytes:
        """The root that devices are made with."""
        return (self.public / "metadata" / "1.root.json").read_bytes()


@dataclass
class Device:
    """One device: its package, and its memory.

    Attributes:
        world: Where it is.
        root: The directory with both.
        clock_is: What its own clock says; ``None``: what time it is.
        forgotten: Labels that it must never say again; ``update`` and ``answers`` see to it.
    """

    world: World
    root: Path
    clock_is: datetime | None = None
    forgotten: set[str] = field(default_factory=set)

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def memory(self) -> DeviceState:
        """What it remembers, read anew."""
        return DeviceState.open(self.state)

    @property
    def sequence(self) -> tuple[int, int]:
        """Where the bundle stands that it has, as epoch and sequence."""
        floor = self.memory.memory.floors[MODEL_ID]
        return floor.epoch, floor.sequence

    @property
    def answers(self) -> set[str]:
        """What it says of the four images, and that this is all that it knows."""
        model = Classifier.open(self.model, state=self.state, require_state=True, threads=1)
        known = {each.label for each in model.classes}
        said = {model.predict(quarter(LABELS.index(label))).label for label in known}
        assert said == known
        assert not known & self.forgotten
        return known

    def update(self, place: str | Path, **options: Any) -> UpdateReport:
        """Update it as ``pfm-device update`` does, without waiting between attempts."""
        given: dict[str, Any] = {
            "require_state": True,
            "clock": lambda: self.clock_is or self.world.now,
            "sleep": lambda seconds: None,
            **options,
        }
        chosen = UpdateOptions(**given)
        return update_model(self.model, open_source(place), state=self.state, options=chosen)

    def require_root(self, version: int) -> None:
        """Require that it trusts this version of the root."""
        known = self.memory.repository()
        assert known is not None
        assert Metadata.from_bytes(known.root).signed.version == version

    def learn_time(self, time: datetime) -> None:
        """Know for certain that this time has passed."""
        known = self.memory.repository()
        assert known is not None
        self.memory.know_repository(replace(known, time=time.strftime("%Y-%m-%dT%H:%M:%SZ")))

    def know_only_the_root(self) -> None:
        """Lose all that updates ever learnt, as a device whose trust was set anew."""
        self.memory.know_repository(RepositoryTrust(root=self.world.first_root))
        shutil.rmtree(self.state / "ota")

    def forget(self, label: str) -> None:
        """Forget a class at the device itself."""
        (done,) = forget_classes(self.model, class_ids(label), state=self.state)
        assert done.erased
        self.forgotten.add(label)
