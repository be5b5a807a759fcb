"""The limit of commands that run at once: a semaphore that may start overdrawn.

Owned by the supervisor. Must not know jobs.
"""

import asyncio


class ConcurrencyLimit:
    """A semaphore of `limit` permits, `taken` of which are held already.

    More may be held than there are: the jobs adopted after a restart with a lower `max_running`.
    """

    def __init__(self, limit: int, taken: int = 0) -> None:
        """Start with `limit - taken` free permits, or with a debt."""
        self._semaphore = asyncio.Semaphore(max(0, limit - taken))
        self._debt = max(0, taken - limit)

    async def __aenter__(self) -> None:
        """Wait for a free permit, and hold it until the block is left."""
        await self._semaphore.acquire()

    async def __aexit__(self, *_: object) -> None:
        """Return the permit."""
        self.release()

    def release(self) -> None:
        """Return a permit; it pays off the debt first."""
        if self._debt:
            self._debt -= 1
        else:
            self._semaphore.release()
