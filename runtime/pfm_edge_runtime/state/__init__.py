"""The device's own memory: what it forgot, what it installed, whom it trusts.

It belongs to the device, not to a model; a tombstone holds for every model. ``DeviceState`` is the
directory, ``Memory`` what it amounts to, the records are how it changes::

    state = DeviceState.open(default_state_directory())
    with state.exclusive():
        state.append(InstallRecord(…, moment=state.moment()))
    state.memory.floors[model_id]
"""

from pfm_edge_runtime.state._checks import (
    Check,
    CheckStatus,
    disk_check,
    examine_rest,
    examine_state,
    mend_state,
)
from pfm_edge_runtime.state._class_records import (
    AbsentRecord,
    ErasedRecord,
    Order,
    TombstoneRecord,
)
from pfm_edge_runtime.state._clock import Clock, ClockStatus, Moment, is_time, read_clock
from pfm_edge_runtime.state._device import DeviceState
from pfm_edge_runtime.state._layout import default_state_directory
from pfm_edge_runtime.state._memory import Memory
from pfm_edge_runtime.state._records import (
    AdoptRecord,
    Damage,
    InitRecord,
    InstallRecord,
    Record,
    RepairRecord,
)
from pfm_edge_runtime.state._repair import Examination, examine_ledger, repair_ledger
from pfm_edge_runtime.state._repository import RepositoryTrust, RoleFloor

__all__ = [
    "AbsentRecord",
    "AdoptRecord",
    "Check",
    "CheckStatus",
    "Clock",
    "ClockStatus",
    "Damage",
    "DeviceState",
    "ErasedRecord",
    "Examination",
    "InitRecord",
    "InstallRecord",
    "Memory",
    "Moment",
    "Order",
    "Record",
    "RepairRecord",
    "RepositoryTrust",
    "RoleFloor",
    "TombstoneRecord",
    "default_state_directory",
    "disk_check",
    "examine_ledger",
    "examine_rest",
    "examine_state",
    "is_time",
    "mend_state",
    "read_clock",
    "repair_ledger",
]
