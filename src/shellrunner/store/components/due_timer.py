"""A timer for jobs that wait for a time: their `start_at`, or the delay of a retry.

Owned by the store, which runs it as a task. Must not know what is done when the time has come.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import StoreUnavailable

_MAX_SLEEP: Final = 30.0  # seconds; then the clock is read again, as it may have been set
_RETRY_DELAY: Final = 1.0  # seconds, while the history cannot be written

QueueDue = Callable[[], Awaitable[Millis | None]]


class DueTimer:
    """Knows when the next job is due."""

    def __init__(self, now: Callable[[], Millis] = now_ms) -> None:
        self._now = now
        self._next: Millis | None = 0  # some may have become due while the history was closed
        self._changed = asyncio.Event()

    def set(self, due: Millis) -> None:
        """Fire at this time, or earlier if a job is due before."""
        if self._next is None or due < self._next:
            self._next = due
            self._changed.set()

    def check(self) -> None:
        """Look for due jobs now: the clock was set."""
        self.set(0)

    async def run(self, queue_due: QueueDue) -> None:
        """Call `queue_due` whenever a job is due. It queues those jobs, and returns when the next will be due."""
        while True:
            self._changed.clear()
            if self._next is not None and self._next <= self._now():
                await self._fire(queue_due)
            else:
                await self._sleep()

    async def _fire(self, queue_due: QueueDue) -> None:
        self._next = None  # before the call: times that are set during it count
        try:
            due = await queue_due()
        except StoreUnavailable:
            due = self._now() + round(_RETRY_DELAY * 1000)
        if due is not None:
            self.set(due)

    async def _sleep(self) -> None:
        pause = _MAX_SLEEP if self._next is None else (self._next - self._now()) / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(pause, 0.0), _MAX_SLEEP)):
                await self._changed.wait()
