"""What a repository was made with: `repository.json`.

Owns the file's form: where the class registry is, for how many days each role's metadata holds, and
where keys are that may sign without being named in every command::

    Settings.read(path).signers["timestamp key id"]      # "/secure/timestamp.pem"

It is private and holds no key.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pfm_edge._reading import read_whole
from pfm_edge.ota._roles import Role
from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.store import write_atomic

__all__ = ["Settings"]

_FORMAT = "pfm-ota-repository/1"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What a repository was made with.

    Attributes:
        registry: The class registry; a forget changes it along with the repository.
        days: For how many days each role's metadata holds.
        signers: A private key's file or signer URI, by key id.
    """

    registry: Path
    days: Mapping[Role, int] = field(default_factory=lambda: {role: role.days for role in Role})
    signers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read it.

        Raises:
            RepositoryError: It is missing or damaged.
        """
        if not path.exists():
            raise RepositoryError(
                f"{path.parent}: it is no repository; make one with pfm-edge ota init"
            )
        data = read_whole(path, most=_MAX_BYTES, error=RepositoryError)
        try:
            found = json.loads(data)
            _require(found.pop("format") == _FORMAT)
            days = {role: _positive(found["days"][role.value]) for role in Role}
            signers = {str(key): str(source) for key, source in found["signers"].items()}
            return cls(Path(str(found["registry"])), days, signers)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RepositoryError(f"{path}: it was damaged; put it back from a backup") from error

    def write(self, path: Path) -> None:
        """Write it, durably.

        Raises:
            StorageError: The disk refused.
        """
        document = {
            "format": _FORMAT,
            "registry": str(self.registry),
            "days": {role.value: self.days[role] for role in Role},
            "signers": dict(self.signers),
        }
        write_atomic(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())

    def with_signers(self, signers: Mapping[str, str]) -> "Settings":
        """Return them with more keys that may sign without being named."""
        return replace(self, signers={**self.signers, **signers})


def _positive(days: object) -> int:
    _require(type(days) is int and days >= 1)
    return int(str(days))


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError
