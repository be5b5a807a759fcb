"""The keepers of this node that wait for a job, and whether there may be jobs for them.

Owned by `claims`, on the event loop's thread. Must not know jobs or transactions.
"""

from collections.abc import Callable

from shellrunner.errors import StoreUnavailable
from shellrunner.store.postgres.transaction.waiting_keeper import WaitingKeeper


class ClaimQueue:
    """The keepers that wait, first in, first out.

    has_backlog: jobs may be queued that none of these has got: as far as is known, so it is looked at from time to
    time, and whenever another node says so.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` runs a write batch now."""
        self._wake = wake
        self._waiting: dict[WaitingKeeper, None] = {}
        self.has_backlog = True

    def __len__(self) -> int:
        """Return how many keepers wait."""
        return len(self._waiting)

    def add(self, keeper: int, token: str) -> WaitingKeeper:
        """Let a keeper wait for a job."""
        waiting = WaitingKeeper(keeper, token)
        self._waiting[waiting] = None
        if self.has_backlog:
            self._wake()
        return waiting

    def remove(self, waiting: WaitingKeeper) -> None:
        """Let a keeper wait no longer."""
        self._waiting.pop(waiting, None)

    def waiting(self) -> list[WaitingKeeper]:
        """Return the keepers whose callers still wait, the longest waiting first."""
        return [each for each in self._waiting if not each.future.done()]

    def look(self) -> None:
        """Look whether there are jobs now, if anybody waits for one."""
        self.has_backlog = True
        if self._waiting:
            self._wake()

    def close(self) -> None:
        """Serve nobody any more: the waiting callers get `StoreUnavailable`."""
        for each in self._waiting:
            if not each.future.done():
                each.future.set_exception(StoreUnavailable("the history is closed"))
        self._waiting.clear()
