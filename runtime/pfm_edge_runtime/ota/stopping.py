"""How an update is told to stop, by a signal or another wish of whoever runs it.

Owns the moments at which that takes effect. Waiting for the network, or for a pause to end, ends at
once; what is being written to the disk ends well first::

    stopping = Stopping()
    signal.signal(signal.SIGTERM, lambda *_: stopping.request())
    update_model("model/", source, options=UpdateOptions(stopping=stopping))

A request is made in the thread that updates, as a signal handler is run in it: it raises out of
whatever that thread waits for. No lock is taken, so a handler may come at any moment.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pfm_edge_runtime.errors import FetchError

__all__ = ["StoppedError", "Stopping"]


class StoppedError(FetchError):
    """The update was told to stop."""

    def __init__(self) -> None:
        super().__init__("stopped before its end; the next update goes on")


class Stopping:
    """Whether to stop.

    Attributes:
        requested: Whether somebody asked for it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waits = False

    def request(self) -> None:
        """Ask the update to stop.

        Raises:
            StoppedError: It waits for something; whoever waits gets this.
        """
        self.requested = True
        if self._waits:
            self._waits = False  # what cleans up after that is not cut short by another request
            raise StoppedError

    def require_going(self) -> None:
        """Require that nobody asked for an end.

        Raises:
            StoppedError: Somebody did.
        """
        if self.requested:
            raise StoppedError

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for something in this block, and write nothing that must be whole.

        Raises:
            StoppedError: Somebody asked for an end, before or meanwhile.
        """
        self._waits = True
        try:
            self.require_going()
            yield
        finally:
            self._waits = False

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or for an end; tell whether to stop."""
        try:
            with self.waiting():
                time.sleep(seconds)
        except StoppedError:
            return True
        return False
