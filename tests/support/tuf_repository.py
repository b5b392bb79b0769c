"""A publisher in a hundred lines, for tests of the device: metadata, bundles, a forget list.

Owns what a repository must hold so that a device can follow it; the real publisher is
``pfm_edge.ota``. Every step is public, so that a test may leave one out or do it wrong::

    publisher = Publisher.create(tmp_path / "repo", tiny)
    publisher.publish(labels=("daisy", "rose"), sequence=2)
    publisher.forget([class_id])
    update_model(tiny.directory, open_source(publisher.public))
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Targets,
)

from pfm_edge_runtime.bundle import Bundle, ClassId, Entry
from pfm_edge_runtime.digest import digest_of
from pfm_edge_runtime.keys import SigningKey
from pfm_edge_runtime.ota.channel import Channel, Release, Rollout
from pfm_edge_runtime.ota.forget_list import ForgetList, ForgetRow
from pfm_edge_runtime.ota.names import FORGET_FILE, bundle_target, channel_target
from tests.support.ota_forge import Forge
from tests.support.tiny_package import INPUTS, LABELS, TinyPackage, entries

NOW = "2026-11-24T10:00:00Z"
ISSUED_AT = datetime(2026, 11, 24, 10, 0, 0, tzinfo=UTC)
EXPIRES = datetime(2026, 12, 24, 10, 0, 0, tzinfo=UTC)


def clock() -> datetime:
    """Tell a time at which nothing has expired."""
    return datetime(2026, 11, 25, 10, 0, 0, tzinfo=UTC)


def signer_of(key: SigningKey) -> CryptoSigner:
    return CryptoSigner(key._key)


class Publisher:
    """A repository and all its keys."""

    def __init__(self, folder: Path, tiny: TinyPackage, forge: Forge) -> None:
        self.public = folder
        self.tiny = tiny
        self.forge = forge
        self.bundle_keys: list[SigningKey] = []
        self.forget_keys: list[SigningKey] = []
        self.rows: list[ForgetRow] = []
        self.number = 0
        self.channel = Channel(tiny.manifest.model_id)

    @classmethod
    def create(cls, folder: Path, tiny: TinyPackage, *, lasting: bool = False) -> "Publisher":
        """Begin a repository that has an empty forget list, and no bundle yet.

        Its metadata expires soon after :func:`clock`, or (``lasting``) not while tests are run.
        """
        expires = EXPIRES.replace(year=2199) if lasting else EXPIRES
        forge = Forge.unwritten(folder, expires=expires)
        made = cls(folder, tiny, forge)
        made.bundle_keys = made.delegate("bundles", ["bundles/*/*", "channel/*"])
        made.forget_keys = made.delegate("forget", [FORGET_FILE])
        forge.write("root")
        made.write_forget_list()
        forge.publish("targets", "bundles", "forget")
        return made

    def delegate(self, role: str, paths: list[str], *, keys: int = 1) -> list[SigningKey]:
        """Delegate paths to keys; again: to other keys."""
        signing = [SigningKey.generate() for _ in range(keys)]
        targets = self.forge.targets()
        targets.delegations = targets.delegations or Delegations({}, {})
        assert targets.delegations.roles is not None
        targets.delegations.roles[role] = DelegatedRole(role, [], keys, True, paths)
        self.forge.signers[role] = [signer_of(key) for key in signing]
        for signer in self.forge.signers[role]:
            targets.add_key(signer.public_key, role)
        expires = self.forge.targets().expires
        self.forge.md.setdefault(role, Metadata(Targets(expires=expires)))
        return signing

    @property
    def root(self) -> bytes:
        """The first root, which a device is told of."""
        return (self.public / "metadata" / "1.root.json").read_bytes()

    def bundle(
        self,
        labels: Sequence[str] = LABELS,
        *,
        epoch: int = 1,
        sequence: int = 1,
        issued_at: datetime = ISSUED_AT,
        also: Iterable[Entry] = (),
    ) -> Bundle:
        """Issue a bundle; those of forgotten classes are left out."""
        gone = {row.class_id for row in self.rows}
        made = Bundle.build(
            model_id=self.tiny.manifest.model_id,
            manifest_digests=[digest_of(self.tiny.manifest.to_bytes())],
            inputs=INPUTS,
            entries=[each for each in [*entries(labels), *also] if each.class_id not in gone],
            issued_at=issued_at,
            epoch=epoch,
            sequence=sequence,
        )
        for key in self.bundle_keys:
            made = made.signed_by(key)
        return made

    def release(self, bundle: Bundle, *, rollout: Rollout | None = None) -> Release:
        """Put a bundle into the repository; nobody is told of it yet."""
        statement = bundle.statement
        target = bundle_target(statement.model_id, statement.epoch, statement.sequence)
        self.forge.add_target(target, bundle.to_bytes(), role="bundles")
        return Release(
            statement.epoch, statement.sequence, bundle.statement_digest, target, rollout
        )

    def publish(
        self, bundle: Bundle | None = None, *, rollout: Rollout | None = None, **issue: Any
    ) -> Bundle:
        """Publish a bundle: as stable, or as a candidate."""
        made = self.bundle(**issue) if bundle is None else bundle
        release = self.release(made, rollout=rollout)
        if rollout is None:
            self.channel = replace(self.channel, stable=release, candidate=None)
        else:
            self.channel = replace(self.channel, candidate=release)
        self.write_channel()
        self.forge.publish("bundles")
        return made

    def write_channel(self) -> None:
        name = channel_target(self.tiny.manifest.model_id)
        self.forge.add_target(name, self.channel.to_bytes(), role="bundles")

    def forget(self, class_ids: Iterable[ClassId], *, issued_at: str = NOW) -> bytes:
        """Publish a forget list that names some more; bundles stay as they are."""
        known = {row.class_id: row for row in self.rows}
        for class_id in class_ids:
            known.setdefault(
                class_id, ForgetRow(class_id, f"order-{class_id[-4:]}", "request", NOW)
            )
        self.rows = [known[each] for each in sorted(known)]
        data = self.write_forget_list(issued_at=issued_at)
        self.forge.publish("forget")
        return data

    def write_forget_list(self, *, issued_at: str = NOW) -> bytes:
        self.number += 1
        data = ForgetList(self.number, issued_at, tuple(self.rows)).seal(self.forget_keys)
        self.forge.add_target(FORGET_FILE, data, role="forget")
        (self.public / FORGET_FILE).write_bytes(data)
        return data
