"""Retention of a history that several nodes share: one of them at a time removes what exceeds the limits.

Owned by the store, which runs it as a task. Works in small batches. The sizes are those of the transaction that
removes, so that no two nodes remove for one excess. Ages are by the clock of the database, as far as some node has
seen it go on by its own boot clock (`seen_time`); what was seen is kept in `meta`. Must not know files.
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
from shellrunner.keeper.identity import boot_id
from shellrunner.store.components.seen_time import ClockMark, SeenTime
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.group_commit import ChangeItem
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.transaction import advisory, tallies
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import idempotency_keys, lifecycle, trimming
from shellrunner.store.values import HistorySize, Retention

_log = logging.getLogger(__name__)

_BATCH_SIZE: Final = 100  # jobs that are removed in one commit
_MARK_INTERVAL: Final = 60_000  # milliseconds between two marks of the clock in the history
_READ_MARK: Final = "SELECT value FROM meta WHERE key = 'clock'"
_WRITE_MARK: Final = """INSERT INTO meta (key, value) VALUES ('clock', ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
_NEWEST: Final = "SELECT max(completed) FROM jobs WHERE state = 'done'"
_ACCEPTED_SINCE: Final = "SELECT id FROM jobs WHERE id = ANY(?) AND created >= ?"
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
        self._seen: SeenTime | None = None

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
        seen = self._seen_now(db, now)
        idempotency_keys.delete_expired(db, seen)
        size = tallies.size(db)
        oldest_kept = 0 if self._limits.days is None else seen - self._limits.days * 86_400_000
        oldest = trimming.oldest(db, _BATCH_SIZE, oldest_kept, now)
        aged = [job_id for job_id, completed in oldest if completed < oldest_kept]
        # The clock of a host may be far behind: no job has ended before it was accepted.
        found = db.execute(_ACCEPTED_SINCE, (aged, oldest_kept)).fetchall() if aged else ()
        younger = {job_id for (job_id,) in found}
        for job_id, completed in oldest:
            is_aged = completed < oldest_kept and job_id not in younger
            reason = "age" if is_aged else self._exceeded(size)
            if reason is None:
                if job_id in younger:
                    continue
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

    def _seen_now(self, db: Db, now: Millis) -> Millis:
        """Return the time by which ages are measured; note in the history how far it was seen to pass."""
        row = db.execute(_READ_MARK).fetchone()
        mark, boot = None if row is None else ClockMark.parse(row[0]), boot_ms()
        if self._seen is None:
            ((newest,),) = db.execute(_NEWEST).fetchall()
            self._seen = SeenTime(mark, newest, boot_id(), now, boot)
        else:
            self._seen.observe(now, boot)
            if mark is not None:  # of another node, perhaps
                self._seen.agree(mark.seen)
        if mark is None or abs(now - mark.wall) >= _MARK_INTERVAL:
            db.execute(_WRITE_MARK, (self._seen.mark.format(),))
        return self._seen.now(now, boot)

    def _exceeded(self, size: HistorySize) -> str | None:
        if self._limits.jobs is not None and size.jobs > self._limits.jobs:
            return "number"
        return "bytes" if self._limits.bytes is not None and size.bytes > self._limits.bytes else None
