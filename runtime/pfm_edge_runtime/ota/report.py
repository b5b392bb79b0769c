"""What an update came to: for a person, for a program, and for a scheduler.

Owns the report's form. A forget list that was obeyed is in it though everything after it failed::

    report = update_model("model/", open_source(url))
    report.outcome, report.exit_code, report.as_dict()["problem"]
"""

from dataclasses import dataclass

from pfm_edge_runtime.bundle import Place
from pfm_edge_runtime.errors import PfmEdgeError
from pfm_edge_runtime.manifest import ModelId
from pfm_edge_runtime.ota._obeying import Obeyed
from pfm_edge_runtime.ota._transport import TryAgainError

__all__ = ["OUTCOMES", "TRY_AGAIN", "UpdateReport"]

OUTCOMES = (
    "failed",
    "forget-list",
    "held-back",
    "not-included",
    "rejected",
    "stopped",
    "up-to-date",
    "updated",
)
"""What an update may come to, in a word."""

TRY_AGAIN = 75
"""Exit code where a later try may succeed by itself: EX_TEMPFAIL of sysexits.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What an update came to.

    Attributes:
        outcome: One of :data:`OUTCOMES`.
        model_id: The model; ``None`` if its package cannot be read.
        place: Where the bundle stands that is installed now; ``None`` if there is none.
        forgotten: What became of the forget list; ``None`` if there was none.
        sent: How many receipts went.
        waiting: How many are in the outbox.
        bytes: What went over the wire, both ways, without headers.
        requests: How many requests it took.
        error: Why it failed, or what is left to be done; ``None`` if nothing is.
    """

    outcome: str
    model_id: ModelId | None
    place: Place | None
    forgotten: Obeyed | None
    sent: int
    waiting: int
    bytes: int
    requests: int
    error: PfmEdgeError | None

    @property
    def problem(self) -> str | None:
        """What is wrong, one line."""
        return None if self.error is None else str(self.error)

    @property
    def exit_code(self) -> int:
        """0: nothing is left to be done; 75: try again later; 1: a person must mend something."""
        if self.error is None:
            return 0
        return TRY_AGAIN if self.error.may_pass else 1

    @property
    def retry_after(self) -> float:
        """Seconds that the server wants to be left alone for; 0: it did not say."""
        return self.error.after if isinstance(self.error, TryAgainError) else 0.0

    def as_dict(self) -> dict[str, object]:
        """Return it as values that JSON has."""
        place, forgotten = self.place, self.forgotten
        return {
            "outcome": self.outcome,
            "model_id": self.model_id,
            "place": None if place is None else {"epoch": place.epoch, "sequence": place.sequence},
            "forget_list": None
            if forgotten is None
            else {
                "number": forgotten.number,
                "rows": forgotten.rows,
                "applied": forgotten.applied,
                "absent": forgotten.absent,
            },
            "receipts": {"sent": self.sent, "waiting": self.waiting},
            "bytes": self.bytes,
            "requests": self.requests,
            "problem": self.problem,
        }
