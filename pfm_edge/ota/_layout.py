"""Where things lie in a publisher's directory.

Owns every path of it::

    REPO/
      repository.json   what it was made with: the registry, days, where keys are
      metadata/         TUF's metadata in force: the publisher's own copy, never read back from
                        what is served; with every root, and with channels and forget list in
                        targets/, so that what is lost of those where it is served can be put back
      devices/          public keys of the enrolled devices
      pending/          a change that waits for signatures
      committing/       a change that is decided and being carried out
      public/           what is served, or copied to a stick

    Layout(Path("REPO")).public_metadata(Role.ROOT, 3)      # REPO/public/metadata/3.root.json
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pfm_edge.ota._roles import Role
from pfm_edge_runtime.ota.names import FORGET_FILE, METADATA_FOLDER, TARGETS_FOLDER

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one publisher's directory."""

    directory: Path

    @property
    def settings(self) -> Path:
        """What the repository was made with."""
        return self.directory / "repository.json"

    @property
    def devices(self) -> Path:
        """The enrolled devices' public keys."""
        return self.directory / "devices"

    @property
    def pending(self) -> Path:
        """The change that waits for signatures, if any."""
        return self.directory / "pending"

    @property
    def committing(self) -> Path:
        """The change that is decided, while it is carried out."""
        return self.directory / "committing"

    @property
    def public(self) -> Path:
        """What is served."""
        return self.directory / "public"

    @property
    def plain_forget_list(self) -> Path:
        """The forget list at its fixed name."""
        return self.public / FORGET_FILE

    @property
    def device_root(self) -> Path:
        """The root that a device is initialised with."""
        return self.public / "root.json"

    def metadata(self, role: Role) -> Path:
        """Return where a role's metadata in force is kept."""
        return self.directory / "metadata" / f"{role}.json"

    def kept_root(self, version: int) -> Path:
        """Return where a root is kept, whether in force or not any more."""
        return self.directory / "metadata" / f"{version}.{Role.ROOT}.json"

    def kept_target(self, path: str) -> Path:
        """Return where the publisher's own copy of a channel or of the forget list is."""
        return self.directory / "metadata" / TARGETS_FOLDER / path

    def public_metadata(self, role: Role, version: int) -> Path:
        """Return where a role's metadata is served."""
        name = f"{role}.json" if role is Role.TIMESTAMP else f"{version}.{role}.json"
        return self.public / METADATA_FOLDER / name

    def public_target(self, path: str, sha256: str) -> Path:
        """Return where a target is served: TUF's consistent snapshots name it by its hash."""
        folder, name = os.path.split(path)
        return self.public / TARGETS_FOLDER / folder / f"{sha256}.{name}"
