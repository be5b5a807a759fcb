"""Retention of a history that several nodes share: one of them at a time removes what exceeds the limits.

Owned by the store, which runs it as a task. Works in small batches. The sizes are those of the transaction that
removes, so that no two nodes remove for one excess. Must not know files.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import uniform
from typing import Final, NamedTuple

from shellrunner.clock import Millis, boot_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.group_commit import ChangeItem
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.transaction import advisory, tallies
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import idempotency_keys, lifecycle, trimming
from shellrunner.store.values import HistorySize, Retention

_log = logging.getLogger(__name__)

_BATCH_SIZE: Final = 100  # jobs that are removed in one commit
_MAX_JUMP: Final = 3_600_000  # milliseconds by which the clock may be ahead of the time that was seen to pass
_INTERVAL: Final = 5.0  # seconds between two looks of one node, about


class RemovedJobs(NamedTuple):
    """What was removed, and for which limit: `age`, `number` or `bytes`."""

    transitions: Transitions
    reasons: Counter[str]


class RetentionTask:
    """Keeps the history within its limits. removals: how many jobs this node has removed, by reason."""

    def __init__(
        self,
        limits: Retention,
        engine: PostgresEngine,
        listener: CommitListener,
        now: Callable[[], Millis],
        is_held: Callable[[], bool],
    ) -> None:
        self.removals: Counter[str] = Counter()
        self._limits, self._engine, self._listener = limits, engine, listener
        self._now, self._is_held = now, is_held
        self._offset: Millis | None = None  # of the clock from the boot clock: the least that was seen

    async def size(self) -> HistorySize:
        """Return how much history there is."""
        return await self._engine.read(tallies.size)

    async def run(self) -> None:
        """Remove what exceeds the limits from time to time, until it is cancelled."""
        while True:
            await asyncio.sleep(uniform(0.5, 1.5) * _INTERVAL)  # noqa: S311  so that the nodes take turns
            with suppress(StoreUnavailable):
                while not self._is_held() and await self.remove_oldest() == _BATCH_SIZE:
                    pass

    async def remove_oldest(self) -> int:
        """Remove some of the oldest jobs that exceed the limits; return how many."""
        removed: RemovedJobs = await self._engine.writes.submit(ChangeItem(self._remove, self._removed))
        return len(removed.transitions)

    def _remove(self, db: Db) -> tuple[RemovedJobs, Transitions]:
        removed = RemovedJobs([], Counter())
        if not advisory.try_lock(db, advisory.RETENTION):
            return removed, []
        now = self._now()
        idempotency_keys.delete_expired(db, now)
        size, oldest_kept = tallies.size(db), self._oldest_kept(now)
        for job_id, completed in trimming.oldest(db, _BATCH_SIZE, oldest_kept, now):
            reason = "age" if completed < oldest_kept else self._exceeded(size)
            if reason is None:
                break
            deleted = lifecycle.delete_job(db, job_id)
            removed.transitions.append(deleted)
            removed.reasons[reason] += 1
            size.jobs, size.bytes = size.jobs - 1, size.bytes - (deleted.size or 0)
        return removed, removed.transitions

    def _removed(self, removed: RemovedJobs) -> None:
        self._listener.committed(removed.transitions)
        self.removals += removed.reasons
        if removed.reasons:
            _log.info("retention removed jobs", extra={"jobs": removed.reasons.total(), **removed.reasons})

    def _oldest_kept(self, now: Millis) -> float:
        days, offset = self._limits.days, now - boot_ms()
        self._offset = offset if self._offset is None else min(self._offset, offset)
        if offset - self._offset > _MAX_JUMP:  # until the clock is right again, or the node restarted
            fields = {"seconds": (offset - self._offset) // 1000, "repeats": "clock of the database"}
            _log.warning("the clock of the database was set ahead: no job is removed for its age", extra=fields)
            return 0
        return 0 if days is None else now - days * 86_400_000

    def _exceeded(self, size: HistorySize) -> str | None:
        if self._limits.jobs is not None and size.jobs > self._limits.jobs:
            return "number"
        return "bytes" if self._limits.bytes is not None and size.bytes > self._limits.bytes else None
