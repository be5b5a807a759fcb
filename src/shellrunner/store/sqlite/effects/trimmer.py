"""Retention: removes done jobs when they are too old, too many or too large, the oldest first.

Owned by the store, which runs it as a task. Works in small batches, so that no other write waits for it. Must not
know files, and never removes a job that is not done.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from shellrunner.clock import now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.retention import HistorySize, Retention
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle, trimming

_BATCH_SIZE: Final = 100  # jobs that are removed in one commit
_POLL_INTERVAL: Final = 30.0  # seconds, for jobs that have become too old

RemoveOldest = Callable[[int], Awaitable[int]]


class RetentionTrimmer:
    """Keeps a history within its limits. `size` is kept up to date by `added` and `removed`."""

    def __init__(self, limits: Retention, size: HistorySize) -> None:
        self.size = size
        self._limits = limits
        self._wake = asyncio.Event()

    def added(self, size: int) -> None:
        """Count a job that is done, with so many bytes of output."""
        self.size.jobs += 1
        self.size.bytes += size
        if self._exceeds(self.size.jobs, self.size.bytes):
            self._wake.set()

    def removed(self, jobs: int, size: int) -> None:
        """Count jobs and bytes of output that were deleted."""
        self.size.jobs -= jobs
        self.size.bytes -= size

    def trim(self, db: Db, max_jobs: int) -> Transitions:
        """Delete the oldest jobs as far as they exceed the limits, at most `max_jobs` (a unit for the writer)."""
        jobs, size = self.size.jobs, self.size.bytes
        oldest_kept = self._oldest_kept()
        transitions: Transitions = []
        for job_id, completed in trimming.oldest(db, max_jobs, oldest_kept, now_ms()):
            if completed >= oldest_kept and not self._exceeds(jobs, size):
                break
            deleted = lifecycle.delete_job(db, job_id)
            transitions.append(deleted)
            jobs, size = jobs - 1, size - (deleted.size or 0)
        return transitions

    async def run(self, remove_oldest: RemoveOldest) -> None:
        """Call `remove_oldest`, which removes at most so many jobs and returns how many, whenever it is necessary."""
        while True:
            self._wake.clear()  # before the call: more jobs may be added during it
            # The writer reports a failure to callers of the store; here it is tried again after a while.
            with suppress(StoreUnavailable):
                while await remove_oldest(_BATCH_SIZE) == _BATCH_SIZE:
                    pass
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_INTERVAL):
                    await self._wake.wait()

    def _oldest_kept(self) -> float:
        days = self._limits.days
        return 0 if days is None else (time.time() - days * 86_400) * 1000

    def _exceeds(self, jobs: int, size: int) -> bool:
        limits = self._limits
        return (limits.jobs is not None and jobs > limits.jobs) or (limits.bytes is not None and size > limits.bytes)
