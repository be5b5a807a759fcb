"""How many commands may run at once: a semaphore that jobs adopted after a restart may have overdrawn.

Owned by the supervisor. Must not know jobs.
"""

import asyncio


class ConcurrencyLimit:
    """`number` places, of which `taken` are taken already: perhaps more than there are, if the number was lowered."""

    def __init__(self, number: int, taken: int = 0) -> None:
        """Start with `number - taken` free places, or with a debt."""
        self._semaphore = asyncio.Semaphore(max(0, number - taken))
        self._debt = max(0, taken - number)

    async def take(self) -> None:
        """Wait for a free place."""
        await self._semaphore.acquire()

    def release(self) -> None:
        """Return a place: to the debt first."""
        if self._debt:
            self._debt -= 1
        else:
            self._semaphore.release()
