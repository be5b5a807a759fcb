"""What is kept: jobs that are done leave when they are too old, too many or too large, oldest first.

Owned by the store, which runs `work` as a task and reports what comes and goes. Works in small steps, so that no
other write waits for it. Must not know files, and never removes what is queued or running.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from shellrunner.clock import now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.store import HistorySize, Retention
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle

_STEP: Final = 100  # rows removed in one batch
_PAUSE: Final = 30.0  # seconds until ages are looked at again
_SKEW: Final = 60_000  # milliseconds that the clock may be corrected by without further ado
# Attempts count once their job is done, as its last one does.
_EARLIER: Final = """SELECT coalesce(sum(attempts.stdout_bytes + attempts.stderr_bytes), 0)
    FROM attempts JOIN jobs ON jobs.id = job WHERE state = 'done'"""


def count(db: sqlite3.Connection) -> HistorySize:
    """Count once, at the opening; from then on the count is carried along."""
    (jobs,) = db.execute("SELECT count(*) FROM jobs WHERE state = 'done'").fetchone()
    (last,) = db.execute("SELECT coalesce(sum(stdout_bytes + stderr_bytes), 0) FROM jobs").fetchone()
    (earlier,) = db.execute(_EARLIER).fetchone()
    return HistorySize(jobs, last + earlier)


def _oldest(db: sqlite3.Connection, most: int, oldest_kept: float) -> list[tuple[int, int]]:
    """The jobs that were done first, and when, as far as can be told."""
    oldest: list[tuple[int, int]] = db.execute(lifecycle.OLDEST, (most,)).fetchall()
    ahead = db.execute(lifecycle.AHEAD, (now_ms() + _SKEW, most)).fetchall()
    if not ahead:
        return oldest
    # The clock was set back: what ends now has the earlier time, and would be removed as soon as it is recorded.
    return sorted({*oldest, *ahead}, key=lambda job: (job[1] >= oldest_kept, job[0]))[:most]


class RetentionTrimmer:
    """Keeps a history within its limits."""

    def __init__(self, limits: Retention, kept: HistorySize, remove: Callable[[int], Awaitable[int]]) -> None:
        """`remove` takes away at most so many of the oldest that are too much, and says how many it took."""
        self.kept = kept
        self._limits = limits
        self._remove = remove
        self._wake = asyncio.Event()

    def came(self, size: int) -> None:
        """A job is done, with so much output."""
        self.kept.jobs += 1
        self.kept.bytes += size
        if self._too_much(self.kept.jobs, self.kept.bytes):
            self._wake.set()

    def went(self, jobs: int, size: int) -> None:
        """So many jobs, and so much output, are gone."""
        self.kept.jobs -= jobs
        self.kept.bytes -= size

    def step(self, db: sqlite3.Connection, most: int) -> Transitions:
        """Remove at most so many of the oldest, as far as they are too much (a unit for the writer)."""
        jobs, size = self.kept.jobs, self.kept.bytes
        oldest_kept = self._oldest_kept()
        removed: Transitions = []
        for job, completed in _oldest(db, most, oldest_kept):
            if completed >= oldest_kept and not self._too_much(jobs, size):
                break
            gone = lifecycle.remove(db, job)
            removed.append(gone)
            jobs, size = jobs - 1, size - (gone.size or 0)
        return removed

    async def work(self) -> None:
        """Remove what is too much, whenever it is."""
        while True:
            self._wake.clear()  # before the look, for more may come during it
            # What fails is told by the writer to whoever asked; here it is tried again after the pause.
            with suppress(StoreUnavailable):
                while await self._remove(_STEP) == _STEP:
                    pass
            await self._rest()

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE):
                await self._wake.wait()

    def _oldest_kept(self) -> float:
        days = self._limits.days
        return 0 if days is None else (time.time() - days * 86_400) * 1000

    def _too_much(self, jobs: int, size: int) -> bool:
        limits = self._limits
        return (limits.jobs is not None and jobs > limits.jobs) or (limits.bytes is not None and size > limits.bytes)
