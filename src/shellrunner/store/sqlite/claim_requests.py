"""The line of keepers that wait for a job: who is next, and when a batch is worth running for them.

Owned by `claims` (which serves the line), on the event loop's thread. Must not know jobs or transactions.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim
from shellrunner.store.components.queue_counts import QueueCounts


@dataclass(eq=False, slots=True)
class ClaimRequest:
    """A keeper that waits for a job, which it would claim under this claim token."""

    keeper: int
    token: str
    future: asyncio.Future[Claim] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ClaimRequests:
    """The claim requests that wait, first in, first out."""

    def __init__(self, counts: QueueCounts, wake: Callable[[], None]) -> None:
        """`wake` runs a write batch now."""
        self._counts = counts
        self._wake = wake
        self._requests: dict[ClaimRequest, None] = {}

    def add(self, keeper: int, token: str) -> ClaimRequest:
        """Let a keeper wait for a job."""
        request = ClaimRequest(keeper, token)
        self._requests[request] = None
        self.wake_if_startable()
        return request

    def remove(self, request: ClaimRequest) -> None:
        """Take the request out of the line."""
        self._requests.pop(request, None)

    def waiting(self) -> list[ClaimRequest]:
        """Return the requests whose callers still wait, the oldest first."""
        return [request for request in self._requests if not request.future.done()]

    def wake_if_startable(self) -> None:
        """Run a batch if there are requests, and jobs for them."""
        if self._requests and self._counts.has_startable():
            self._wake()

    def close(self) -> None:
        """Serve nobody any more: the waiting callers get `StoreUnavailable`."""
        for request in self._requests:
            if not request.future.done():
                request.future.set_exception(StoreUnavailable("the history is closed"))
        self._requests.clear()
