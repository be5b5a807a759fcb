"""Reads of one job's rows by their primary keys: on the event loop's thread, if that need not wait for the disk.

Owned by the store. A row that was read or written a short while ago is in memory, in the kernel's page cache if not
in SQLite's. Any other may have to come from the disk, which may be slow or hang, so a reading thread fetches it.
Whatever fails on the loop's thread is done again by a reading thread: that one can wait, and reports the failure.
"""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from shellrunner.store.db import UnitOfWork
from shellrunner.store.sqlite.engine.batch_reader import SQLITE_FAILURES
from shellrunner.store.sqlite.engine.engine import Engine

T = TypeVar("T")

MAX_AGE: Final = 60.0  # seconds, up to twice as many of which a row counts as recent
MAX_JOBS: Final = 10_000  # likewise; each takes about 60 bytes


class PointReads:
    """Runs units that read a few rows of one job, each by its primary key."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        # Two generations instead of a time for each job: forgetting the older one costs nothing per job.
        self._recent: set[int] = set()
        self._older: set[int] = set()
        self._since = clock()

    async def run(self, job_id: int, unit: UnitOfWork[T]) -> T:
        """Run a unit that reads rows of this job only; see `Engine.read`."""
        if self._is_recent(job_id):
            try:
                return self._engine.read_at_once(unit)
            except SQLITE_FAILURES:
                pass
        value = await self._engine.read(unit)
        self.touched(job_id)
        return value

    def touched(self, job_id: int) -> None:
        """Note that rows of the job were just read or written."""
        self._age()
        self._recent.add(job_id)

    def _is_recent(self, job_id: int) -> bool:
        self._age()
        if job_id in self._recent:
            return True
        if job_id not in self._older:
            return False
        self._recent.add(job_id)
        return True

    def _age(self) -> None:
        age = self._clock() - self._since
        if age >= MAX_AGE or len(self._recent) >= MAX_JOBS:
            self._older = self._recent if age < 2 * MAX_AGE else set()
            self._recent = set()
            self._since += age
