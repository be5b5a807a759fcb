"""Queues jobs that wait for a time: at their `start_at`, or after a retry's delay.

Owned by the store, which runs `work` as a task. Must not know what is done when the time has come.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import StoreUnavailable

_SELDOM: Final = 30.0  # seconds after which the clock is looked at again: it may have been set
_AGAIN: Final = 1.0  # seconds until a history that takes nothing is tried again


class DueTimer:
    """Knows when the next job has waited long enough."""

    def __init__(self, ring: Callable[[], Awaitable[Millis | None]]) -> None:
        """`ring` queues what is due, and says when the next will be."""
        self._ring = ring
        self._next: Millis | None = 0  # there may be some from before
        self._changed = asyncio.Event()

    def set(self, due: Millis) -> None:
        """A job waits until then."""
        if self._next is None or due < self._next:
            self._next = due
            self._changed.set()

    async def work(self) -> None:
        """Ring whenever it is time."""
        while True:
            self._changed.clear()
            if self._next is not None and self._next <= now_ms():
                await self._go_off()
            else:
                await self._rest()

    async def _go_off(self) -> None:
        self._next = None  # whatever is set meanwhile counts
        try:
            due = await self._ring()
        except StoreUnavailable:
            due = now_ms() + round(_AGAIN * 1000)
        if due is not None:
            self.set(due)

    async def _rest(self) -> None:
        pause = _SELDOM if self._next is None else self._next / 1000 - time.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(pause, 0.0), _SELDOM)):
                await self._changed.wait()
