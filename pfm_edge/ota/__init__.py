"""The publisher's side of over-the-air updates: a repository of The Update Framework (TUF).

repository, _ = init_repository(Path("REPO"), InitRequest(Path("classes.json"), keys))
publish(repository, Path("model"), rollout=RolloutRequest(percent=10))
forget(repository, [class_id])

What lies in `REPO/public` is served by any web server; `docs/ota.md` has the roles and the keys.
"""

from pfm_edge.ota._forget import OrderRequest, forget
from pfm_edge.ota._init import InitRequest, init_repository, new_keys
from pfm_edge.ota._keys import RoleKey, Signers, read_key
from pfm_edge.ota._metadata import Missing
from pfm_edge.ota._publish import RolloutRequest, publish
from pfm_edge.ota._repository import Outcome, PublisherRepository
from pfm_edge.ota._roles import Role

__all__ = [
    "InitRequest",
    "Missing",
    "OrderRequest",
    "Outcome",
    "PublisherRepository",
    "Role",
    "RoleKey",
    "RolloutRequest",
    "Signers",
    "forget",
    "init_repository",
    "new_keys",
    "publish",
    "read_key",
]
