"""Retention: removes done jobs when they are too old, too many or too large, the oldest first.

Owned by the store, which runs it as a task. Works in small batches, so that no other write waits for it. Must not
know files, and never removes a job that is not done.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle, trimming
from shellrunner.store.values import HistorySize, Retention

_BATCH_SIZE: Final = 100  # jobs that are removed in one commit
_LOG_INTERVAL: Final = 60.0  # seconds between two lines about jobs that were too many
_POLL_INTERVAL: Final = 30.0  # seconds, for jobs that have become too old

_log = logging.getLogger(__name__)

RemoveOldest = Callable[[int], Awaitable[int]]


class Trimmed(NamedTuple):
    """What was removed, and for which limit: `age`, `number` or `bytes`."""

    transitions: Transitions
    reasons: Counter[str]


class RetentionTrimmer:
    """Keeps a history within its limits. Its size is kept up to date by `added` and `removed`.

    removals: how many jobs were removed since the history was opened, by reason.
    """

    def __init__(self, limits: Retention) -> None:
        self.removals: Counter[str] = Counter()
        self._limits = limits
        self._size = HistorySize(0, 0)  # until `counted`: by how much it has changed since the opening
        self._count: HistorySize | StoreUnavailable | None = None  # when it was opened
        self._counted = asyncio.Event()
        self._wake = asyncio.Event()
        self._unlogged: Counter[str] = Counter()
        self._log_at = 0.0  # loop.time() from which on removals for number and bytes are logged

    def added(self, size: int) -> None:
        """Count a job that is done, with so many bytes of output."""
        self._size.jobs += 1
        self._size.bytes += size
        if self._exceeded(self._size.jobs, self._size.bytes):
            self._wake.set()

    def removed(self, jobs: int, size: int) -> None:
        """Count jobs and bytes of output that were deleted."""
        self._size.jobs -= jobs
        self._size.bytes -= size

    def counted(self, opened: HistorySize | StoreUnavailable) -> None:
        """Add the size that the history had when it was opened; from now on the limits of number and bytes apply."""
        if isinstance(opened, HistorySize):
            self._size.jobs += opened.jobs
            self._size.bytes += opened.bytes
        self._count = opened
        self._counted.set()
        self._wake.set()

    async def size(self) -> HistorySize:
        """Return the size, once it is counted.

        Raises:
            StoreUnavailable: it could not be counted.
        """
        await self._counted.wait()
        if isinstance(self._count, StoreUnavailable):
            raise self._count
        return self._size

    def wake(self) -> None:
        """Look now whether anything is to be removed."""
        self._wake.set()

    def trim(self, db: Db, max_jobs: int, now: Millis) -> Trimmed:
        """Delete the oldest jobs as far as they exceed the limits, at most `max_jobs` (a unit for the writer).

        `now`: the time with which ages are measured.
        """
        jobs, size = self._size.jobs, self._size.bytes
        oldest_kept = self._oldest_kept(now)
        trimmed = Trimmed([], Counter())
        for job_id, completed in trimming.oldest(db, max_jobs, oldest_kept, now_ms()):
            reason = "age" if completed < oldest_kept else self._exceeded(jobs, size)
            if reason is None:
                break
            deleted = lifecycle.delete_job(db, job_id)
            trimmed.transitions.append(deleted)
            trimmed.reasons[reason] += 1
            jobs, size = jobs - 1, size - (deleted.size or 0)
        return trimmed

    def trimmed(self, trimmed: Trimmed) -> None:
        """Count and log what was removed: by age at once, else once a minute, as each end may remove a job."""
        self.removals += trimmed.reasons
        self._unlogged += trimmed.reasons
        now = asyncio.get_running_loop().time()
        if self._unlogged["age"] or (self._unlogged and now >= self._log_at):
            self.log_removals()
            self._log_at = now + _LOG_INTERVAL

    def log_removals(self) -> None:
        """Log what was removed since the last time."""
        if self._unlogged:
            _log.info("retention removed jobs", extra={"jobs": self._unlogged.total(), **self._unlogged})
            self._unlogged.clear()

    async def run(self, remove_oldest: RemoveOldest) -> None:
        """Call `remove_oldest`, which removes at most so many jobs and returns how many, whenever it is necessary."""
        while True:
            self._wake.clear()  # before the call: more jobs may be added during it
            # The writer reports a failure to callers of the store; here it is tried again after a while.
            with suppress(StoreUnavailable):
                while await remove_oldest(_BATCH_SIZE) == _BATCH_SIZE:
                    pass
            if asyncio.get_running_loop().time() >= self._log_at:
                self.log_removals()
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_INTERVAL):
                    await self._wake.wait()

    def _oldest_kept(self, now: Millis) -> float:
        days = self._limits.days
        return 0 if days is None else now - days * 86_400_000

    def _exceeded(self, jobs: int, size: int) -> str | None:
        """Return which limit is exceeded by so many jobs with so many bytes."""
        if not isinstance(self._count, HistorySize):
            return None
        if self._limits.jobs is not None and jobs > self._limits.jobs:
            return "number"
        return "bytes" if self._limits.bytes is not None and size > self._limits.bytes else None
