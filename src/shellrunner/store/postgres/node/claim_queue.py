"""The keepers of this node that wait for a job, and whether there may be jobs for them.

Owned by `claims`, on the event loop's thread. Must not know jobs or transactions.
"""

import logging
from collections.abc import Callable

from shellrunner.errors import StoreUnavailable
from shellrunner.store.postgres.transaction.waiting_keeper import WaitingKeeper

_log = logging.getLogger(__name__)


class ClaimQueue:
    """The keepers that wait, first in, first out.

    has_backlog: jobs may be queued that none of these has got: as far as is known, so it is looked at from time to
    time, and whenever another node says so. looks: how often that was reported.
    """

    def __init__(self, wake: Callable[[], None], is_disk_low: Callable[[], bool]) -> None:
        """`wake` runs a write batch now. While `is_disk_low`, no keeper of this host gets a job."""
        self._wake, self._is_disk_low = wake, is_disk_low
        self._waiting: dict[WaitingKeeper, None] = {}
        self.has_backlog = True
        self.looks = 0

    def __len__(self) -> int:
        """Return how many keepers wait, and can get a job."""
        return 0 if self._is_disk_low() else len(self._waiting)

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
        """Return the keepers whose callers still wait, and can get a job, the longest waiting first."""
        if self._waiting and self._is_disk_low():
            _log.warning("no job is started here: the disk is nearly full", extra={"repeats": "disk of a node"})
            return []
        return [each for each in self._waiting if not each.future.done()]

    def look(self) -> None:
        """Look whether there are jobs now, if anybody waits for one."""
        self.has_backlog = True
        self.looks += 1
        if self._waiting:
            self._wake()

    def looked(self, looks: int, *, has_backlog: bool) -> None:
        """Follow what a batch has found, which began after so many looks; of later ones it knows nothing."""
        self.has_backlog = has_backlog or self.looks != looks

    def close(self) -> None:
        """Serve nobody any more: the waiting callers get `StoreUnavailable`."""
        for each in self._waiting:
            if not each.future.done():
                each.future.set_exception(StoreUnavailable("the history is closed"))
        self._waiting.clear()
