"""How the files of a repository come to a device, whatever they come by.

Owns what every way has in common: a name below the repository's root in, its bytes out, or one line
that says why not; and the meter that counts what it costs::

    data = transport.read("metadata/timestamp.json", most=2**14)
    transport.meter.requests, transport.meter.received
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from pfm_edge_runtime.errors import FetchError, UpdateError

__all__ = [
    "BudgetError",
    "Meter",
    "MissingFileError",
    "Progress",
    "RefusedError",
    "Transport",
    "TryAgainError",
]

Progress = Callable[[int, int], None]
"""Is told how many bytes of a download are here, and how many there will be."""


class BudgetError(UpdateError):
    """It would cost more bytes than are left."""


class RefusedError(UpdateError):
    """What is in between, or at the other end, refuses until a person mends something."""


class TryAgainError(FetchError):
    """The network or the server failed in a way that often passes by itself.

    Attributes:
        after: Seconds that the server wants to be left alone for; 0: it did not say.
    """

    def __init__(self, message: str, *, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class MissingFileError(FetchError):
    """There is no such file.

    Attributes:
        status: What HTTP says: 403 or 404.
    """

    def __init__(self, message: str, *, status: int = 404) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Meter:
    """Counts what an update costs.

    Attributes:
        most: Bytes that it may cost, both ways; ``None``: any number.
        requests: Requests so far.
        received: Bytes of bodies that came.
        sent: Bytes of bodies that went.
    """

    most: int | None = None
    requests: int = 0
    received: int = 0
    sent: int = 0

    @property
    def total(self) -> int:
        """Bytes so far, both ways."""
        return self.received + self.sent

    def require(self, more: int) -> None:
        """Require that so many more bytes are within the budget.

        Raises:
            BudgetError: They are not.
        """
        if self.most is not None and self.total + more > self.most:
            raise BudgetError(
                f"the update needs more than {self.most} bytes ({self.total} so far, {more} more): "
                "raise --max-bytes"
            )


class Transport(ABC):
    """Reads files of one repository; used by one thread, and closed after use.

    Attributes:
        name: The repository, as messages name it.
        is_fresh: Whether what it reads claims to be the newest; a copy on a stick does not.
        meter: What it cost so far.
    """

    name: str
    is_fresh: bool
    meter: Meter

    def read(self, name: str, *, most: int, attempts: int | None = None) -> bytes:
        """Read a file.

        Args:
            name: Its name below the repository's root, with slashes.
            most: Bytes that it may have.
            attempts: How often to try; ``None``: as often as the transport was told.

        Raises:
            MissingFileError: There is none.
            FetchError: It cannot be had, or is longer.
            BudgetError: It would cost more than is left.
        """
        parts = name.split("/")
        if any(part in {"", ".", ".."} for part in parts) or "\\" in name or "\0" in name:
            raise FetchError(f"{self.name}: a file name in its metadata leads elsewhere")
        return self._read(name, most, attempts)

    @abstractmethod
    def _read(self, name: str, most: int, attempts: int | None) -> bytes:
        """Read a file whose name is well formed."""

    def close(self) -> None:  # noqa: B027 (a directory has nothing to close)
        """Let go of connections."""

    def __enter__(self) -> "Transport":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
