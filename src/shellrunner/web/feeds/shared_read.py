"""A read that is shared by all who ask for it at about the same time, at a limited rate.

Each feed owns one. Must not know what is read.
The third stage of output (the second: `notifications`): changes are read together; next, `wire.sse`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

INTERVAL: Final = 0.045  # seconds between two reads, on average: changes are coalesced for at most this long
_MAX_SHARE: Final = 1 / 3  # of the event loop's time, for what follows from the reads
_BURST: Final = 3  # reads that may follow each other at once after a pause: queued, running, done
# The same where somebody may be typing, and waits for the echo of each key: a fast typist is never coalesced, a key
# that is held down neither.
_TYPING_INTERVAL: Final = 0.01
_TYPING_BURST: Final = 20


class SharedRead(Generic[T]):
    """Reads the latest state for any number of callers, at most once per interval in the long run.

    The rate is limited as by a token bucket (the generic cell rate algorithm): after a pause a caller is served at
    once, so the first byte of a quiet job waits for nothing here, and a steady flow of changes is coalesced. A caller
    waits for what is left of the interval since the last read, not for an interval of its own, so this delay and the
    store's poll of running output overlap instead of adding up.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], interval: float) -> None:
        """`read` returns the latest state; if it fails, its caller gets the error and the next caller reads again."""
        self.interval, self._burst = interval, _BURST
        self._read = read
        self._lock = asyncio.Lock()
        self._begun = self._finished = 0  # the number of the last read that was begun, and of the one in `_value`
        self._paid_until = 0.0  # when all reads so far have had their interval, one after the other
        self._rests_until = 0.0  # see `charge`
        self._value: T

    async def latest(self) -> T:
        """Return the state as of this call or later. All who call while a read is due share it.

        Raises whatever `read` raises.
        """
        before = self._begun
        async with self._lock:
            # A read that was begun before this call may have missed what its caller was notified of.
            if self._finished <= before:
                # Even if there is no time to wait: one turn of the event loop lets in all callers that the same
                # notification woke.
                await asyncio.sleep(max(0.0, self._earliest() - self._now()))
                self._begun += 1
                self._value = await self._read()
                self._finished = self._begun
                self._paid_until = max(self._paid_until, self._now()) + self.interval
            return self._value

    async def read_now(self) -> T:
        """Return the state as of this call, for a caller who asks for the first time.

        It waits for nobody and is shared by nobody: to come at all costs a client, and so us, more than the read.
        """
        return await self._read()

    def _earliest(self) -> float:
        return max(self._paid_until - (self._burst - 1) * self.interval, self._rests_until)

    def expect_typing(self) -> None:
        """Coalesce less from now on: somebody may wait for the echo of each key."""
        self.interval, self._burst = min(self.interval, _TYPING_INTERVAL), _TYPING_BURST

    def charge(self, seconds: float) -> None:
        """Put off the next read: this is how long a part of what is done with the last one took, for all its callers.

        However many they are, they take at most `_MAX_SHARE` of the time.
        """
        self._rests_until = max(self._rests_until, self._now()) + seconds * (1 / _MAX_SHARE - 1)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
