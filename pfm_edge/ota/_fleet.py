"""The fleet: what the enrolled devices stated about every order to forget.

Owns the count, and the words for it::

    status = fleet_status(repository, Path("receipts"))
    [order] = status.orders
    len(order.stated), len(order.late)

Only enrolled devices count, and of those only the ones whose receipts do not contradict each other.
It is what the devices' software states, under the devices' keys: no proof that no copy is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pfm_edge.ota._current import Current
from pfm_edge.ota._enrolment import enrolled_devices
from pfm_edge.ota._receipts import FoundReceipts, Progress, Statement, read_receipts
from pfm_edge.ota._repository import PublisherRepository
from pfm_edge_runtime.errors import RepositoryError
from pfm_edge_runtime.ota.forget_list import ForgetList, ForgetRow

__all__ = ["WORTH", "FleetStatus", "OrderStatus", "fleet_status"]

WORTH = (
    "A receipt is a statement of the device's software, signed with the device's own key, that it "
    "erased a class, or that the class was not in the model that it looked at (where a device has "
    "several, the one that it updates). It is no proof: whoever controls the device, "
    "or a full copy of it, can sign a false one, and copies that the software does not know of "
    "(backups, flash blocks that were remapped) are not covered. Only devices whose keys were "
    "enrolled, apart from any receipt, are counted. Times are those of the devices' own clocks."
)

LATE_AFTER = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class OrderStatus:
    """One order, and who answered it.

    Attributes:
        order_id: The order.
        reason: Its reason, a code.
        time: When it was given, UTC.
        class_ids: The classes, ascending.
        stated: Devices that stated, for every one of its classes, that it is erased or was absent.
        waiting: Devices that did not yet, while the order is young.
        late: Devices that did not, though it is not young any more.
        doubtful: Devices whose receipts contradict each other.
        statements: All that enrolled devices stated about its classes.
    """

    order_id: str
    reason: str
    time: str
    class_ids: tuple[str, ...]
    stated: tuple[str, ...]
    waiting: tuple[str, ...]
    late: tuple[str, ...]
    doubtful: tuple[str, ...]
    statements: tuple[Statement, ...]

    @property
    def erased(self) -> int:
        """How many of the devices that stated had at least one of the classes."""
        had = {each.device for each in self.statements if each.outcome == "erased"}
        return len(had.intersection(self.stated))

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        made = [
            {
                "device": each.device,
                "class_id": each.class_id,
                "outcome": each.outcome,
                "time": each.time,
                "clock": each.clock,
                "ledger_number": each.number,
                "order_id": each.order_id or None,
                "file": each.file,
            }
            for each in self.statements
        ]
        return {
            "order_id": self.order_id,
            "reason": self.reason,
            "time": self.time,
            "class_ids": [*self.class_ids],
            "stated": [*self.stated],
            "erased": self.erased,
            "waiting": [*self.waiting],
            "late": [*self.late],
            "doubtful": [*self.doubtful],
            "statements": made,
        }


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """What is known of a fleet.

    Attributes:
        time: When it was looked at, UTC.
        forget_list: The orders.
        late_after: For how many days an order is young.
        enrolled: How many devices are enrolled.
        orders: Each order, the oldest first.
        receipts: What the folder held.
    """

    time: str
    forget_list: ForgetList
    late_after: int
    enrolled: int
    orders: tuple[OrderStatus, ...]
    receipts: FoundReceipts

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        found = self.receipts
        return {
            "time": self.time,
            "forget_list": {
                "number": self.forget_list.number,
                "issued_at": self.forget_list.issued_at,
                "rows": len(self.forget_list.rows),
            },
            "late_after_days": self.late_after,
            "enrolled": self.enrolled,
            "orders": [each.as_dict() for each in self.orders],
            "unknown": dict(found.unknown),
            "duplicated": [*found.duplicated],
            "regressed": [*found.regressed],
            "unreadable": dict(found.unreadable),
            "repeated": found.repeated,
            "worth": WORTH,
        }


def fleet_status(
    repository: PublisherRepository,
    receipts: Path,
    *,
    late_after: timedelta = LATE_AFTER,
    progress: Progress | None = None,
) -> FleetStatus:
    """Count what the enrolled devices stated.

    Args:
        repository: Whose orders and devices.
        receipts: A folder of receipts, as `pfm-device update --receipts` leaves or posts them.
        late_after: For how long an order is young.
        progress: Told how many receipts are read of how many.

    Raises:
        RepositoryError: Nothing was published yet.
        StorageError: The folder cannot be read.
    """
    with repository.held():
        current = Current.read(repository.layout)
        if not current.metadata:
            raise RepositoryError(f"{repository.directory}: nothing was published yet")
        forget_list = current.forget_list
        enrolled = enrolled_devices(repository)
    found = read_receipts(receipts, enrolled, progress)
    now = repository.clock()
    by_class: dict[str, list[Statement]] = {}
    for each in found.statements:
        by_class.setdefault(each.class_id, []).append(each)
    groups: dict[tuple[str, str, str], list[ForgetRow]] = {}
    for row in forget_list.rows:
        groups.setdefault((row.time, row.order_id, row.reason), []).append(row)
    orders = tuple(
        _order(
            rows, by_class, {*enrolled}, found.doubtful, late=_age(rows[0].time, now) > late_after
        )
        for _, rows in sorted(groups.items())
    )
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return FleetStatus(time, forget_list, late_after.days, len(enrolled), orders, found)


def _order(
    rows: list[ForgetRow],
    by_class: Mapping[str, list[Statement]],
    enrolled: set[str],
    doubtful: frozenset[str],
    *,
    late: bool,
) -> OrderStatus:
    class_ids = tuple(each.class_id for each in rows)
    statements = [each for class_id in class_ids for each in by_class.get(class_id, ())]
    trusted = enrolled - doubtful
    answered = [
        {each.device for each in by_class.get(class_id, ())} & trusted for class_id in class_ids
    ]
    stated = set.intersection(*answered)
    missing = tuple(sorted(trusted - stated))
    return OrderStatus(
        order_id=rows[0].order_id,
        reason=rows[0].reason,
        time=rows[0].time,
        class_ids=class_ids,
        stated=tuple(sorted(stated)),
        waiting=() if late else missing,
        late=missing if late else (),
        doubtful=tuple(sorted(enrolled & doubtful)),
        statements=tuple(sorted(statements)),
    )


def _age(time: str, now: datetime) -> timedelta:
    return now - datetime.fromisoformat(time).astimezone(UTC)
