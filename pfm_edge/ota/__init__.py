"""The publisher's side of over-the-air updates: a repository of The Update Framework (TUF).

repository, _ = init_repository(Path("REPO"), InitRequest(Path("classes.json"), keys))
publish(repository, Path("model"), rollout=RolloutRequest(percent=10))
forget(repository, [class_id])

What lies in `REPO/public` is served by any web server; `docs/ota.md` has the roles and the keys.
"""

from pfm_edge.ota._enrolment import enrol, enrolled_devices, retire
from pfm_edge.ota._fleet import WORTH, FleetStatus, OrderStatus, fleet_status
from pfm_edge.ota._fleet_page import fleet_page
from pfm_edge.ota._forget import OrderRequest, forget
from pfm_edge.ota._init import InitRequest, init_repository, new_keys, require_ready
from pfm_edge.ota._keys import RoleKey, Signers, read_key
from pfm_edge.ota._metadata import Missing
from pfm_edge.ota._publish import RolloutRequest, publish
from pfm_edge.ota._refresh import Refreshed, refresh
from pfm_edge.ota._repository import Outcome, PublisherRepository
from pfm_edge.ota._restored import restore
from pfm_edge.ota._roles import Role
from pfm_edge.ota._rollout import set_rollout
from pfm_edge.ota._rotation import KeyChange, rotate_key
from pfm_edge.ota._signing import abandon, sign, sign_copy
from pfm_edge.ota._state import RepositoryState, repository_state

__all__ = [
    "WORTH",
    "FleetStatus",
    "InitRequest",
    "KeyChange",
    "Missing",
    "OrderRequest",
    "OrderStatus",
    "Outcome",
    "PublisherRepository",
    "Refreshed",
    "RepositoryState",
    "Role",
    "RoleKey",
    "RolloutRequest",
    "Signers",
    "abandon",
    "enrol",
    "enrolled_devices",
    "fleet_page",
    "fleet_status",
    "forget",
    "init_repository",
    "new_keys",
    "publish",
    "read_key",
    "refresh",
    "repository_state",
    "require_ready",
    "restore",
    "retire",
    "rotate_key",
    "set_rollout",
    "sign",
    "sign_copy",
]
