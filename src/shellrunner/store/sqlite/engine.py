"""What works behind the SQLite history: its connections and tasks, and what follows from each commit.

The contract's methods are `sqlite`'s, which builds on this. Everything that follows from a write follows from the
moves that it made: counts, bells, claims, retention. Must not know what is asked of the history, or by whom.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, Self, TypeVar

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, Delivery, Ending, State
from shellrunner.store import HistorySize, QueueLimits, Retention
from shellrunner.store.change_log import InMemoryChangeLog
from shellrunner.store.notifications import Notifications
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.output.reader import OutputReader
from shellrunner.store.output.spill import SpillRemover
from shellrunner.store.query.search import Indexer
from shellrunner.store.sqlite.batch_queue import BatchQueue, UnitOfWork, WorkItem
from shellrunner.store.sqlite.batch_writer import BatchWriter
from shellrunner.store.sqlite.claims import Claims
from shellrunner.store.sqlite.db_thread import DbThread
from shellrunner.store.sqlite.disk_reserve import Ballast
from shellrunner.store.sqlite.due_timer import DueTimer
from shellrunner.store.sqlite.queue_counts import QueueCounts
from shellrunner.store.sqlite.recovery import Recovery
from shellrunner.store.sqlite.trimmer import RetentionTrimmer
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import admission, idempotency_keys, lifecycle
from shellrunner.tasks import background

T = TypeVar("T")
WISHES: Final = "wishes"
CALLS: Final = "calls"
CHANGES: Final = "changes"
_WOKEN: Final = 500  # jobs that are queued in one batch because their time has come


class Core:
    """An open history at work."""

    def __init__(
        self,
        opening: Recovery,
        writing: DbThread,
        reading: Sequence[DbThread],
        limits: tuple[Retention, QueueLimits],
        state: str,
    ) -> None:
        retention, queue_limits = limits
        self._history_id = opening.history
        self._owners = opening.owners
        self._queues = QueueCounts(queue_limits, opening.undone, opening.paused)
        self._changes = InMemoryChangeLog()
        self._ballast = Ballast(f"{state}/ballast")
        self._claims = Claims(self._queues, self._more, self._served, self._moved)
        self._writer = BatchWriter(writing, self._claims.standing, self._ballast.give_up)
        self._readers = [BatchQueue(connection) for connection in reading]
        self._storage = LocalStorage(state)
        self._outputs = OutputReader(self._storage, self._read)
        self._bells = Notifications(self._fingerprint)
        self._spill_remover = SpillRemover(state)
        self._retainer = RetentionTrimmer(retention, opening.kept, self._retire)
        self._alarm = DueTimer(self._wake_up)
        # Since the opening: jobs that are done, by queue and ending; tries to send a result, by what came of them.
        self.endings: Counter[tuple[str, Ending]] = Counter()
        self.callback_tries: Counter[Delivery] = Counter()
        self._indexer = Indexer(self._write)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Self]:
        """Have everything that works in the background at work; at the end, finish what was asked for."""
        async with background() as tasks:
            writer = tasks.start("store-writer", self._writer.work())
            others = [tasks.start("store-reader", reader.work()) for reader in self._readers]
            others.append(tasks.start("store-spill-remover", self._spill_remover.run()))
            tasks.start("store-bells", self._bells.work())
            tasks.start("store-retention", self._retainer.work())
            tasks.start("store-alarm", self._alarm.work())
            tasks.start("store-search", self._indexer.run())
            try:
                yield self
            finally:
                self._claims.close()
                self._writer.close()
                await asyncio.wait([writer])
                for reader in self._readers:
                    reader.close()
                self._spill_remover.close()
                await asyncio.wait(others)
                self._storage.close()

    @property
    def size(self) -> HistorySize:
        """What the history holds of jobs that are done."""
        return self._retainer.kept

    # Units -------------------------------------------------------------------------------------------------------

    async def _read(self, unit: UnitOfWork[T]) -> T:
        return await min(self._readers, key=lambda reader: reader.load).run(unit)

    async def _write(
        self, unit: UnitOfWork[T], after: Callable[[T], None] | None = None, *, frees: bool = False
    ) -> T:
        value: T = await self._writer.ask(WorkItem(unit, after, frees=frees))
        return value

    def _more(self) -> None:
        self._writer.wake()

    def _put_back(self, job_id: int, token: str) -> "asyncio.Future[Transitions]":
        return self._writer.ask(WorkItem(partial(_requeue, job_id=job_id, token=token), self._moved, queues=True))

    # What follows from a commit: called on the loop even if nobody waits for the answer any more ---------------

    def _moved(self, moves: Transitions) -> None:
        for move in moves:
            self._queues.moved(move)
            self._follow(move)
        if moves:
            self._claims.look()

    def _follow(self, move: Transition) -> None:
        match move.after:
            case State.DONE:
                self._owners.pop(move.job_id, None)
                self._retainer.came(move.size or 0)
                if move.ending is not None:
                    self.endings[move.queue, move.ending] += 1
                if move.has_followers:
                    self._bells.ring(CALLS)
            case None:
                self._gone(move.job_id, move.size, jobs=1, attempts=move.attempts)
            case State.WAITING if move.due is not None:
                self._alarm.set(move.due)
        if move.before is State.RUNNING:
            self._owners.pop(move.job_id, None)
        elif move.before is None:
            self._indexer.job_added()
        self._rung(move.job_id)

    def _rung(self, job_id: int) -> None:
        self._changes.note(job_id)
        self._bells.ring(job_id)
        self._bells.ring(CHANGES)

    def _served(self, claim: Claim, moves: Transitions, gone: bool) -> None:
        self._owners[claim.job_id] = SlotOwner(claim.keeper, claim.token, claim.attempt)
        for move in moves:
            self._queues.moved(move)
            if move.before is None:
                self._indexer.job_added()
        self._rung(claim.job_id)
        if gone:  # whoever wanted it was told nothing, so it goes back; if that fails, it is judged later
            with suppress(StoreUnavailable):
                self._put_back(claim.job_id, claim.token).add_done_callback(asyncio.Future.exception)

    def _gone(self, job_id: int, size: int | None, *, jobs: int, attempts: int) -> None:
        self._retainer.went(jobs, size or 0)
        if size is not None:  # also 0: of a lost job there may be more than is known
            self._spill_remover.discard(job_id, attempts)

    def _tried(self, outcome: Delivery | None) -> None:
        if outcome is not None:
            self.callback_tries[outcome] += 1

    # What is done without being asked for ------------------------------------------------------------------------

    async def _retire(self, most: int) -> int:
        def unit(db: sqlite3.Connection) -> Transitions:
            self._ballast.restore()
            idempotency_keys.expire(db, now_ms())
            return self._retainer.step(db, most)

        removed: Transitions = await self._write(unit, self._moved, frees=True)
        return len(removed)

    async def _wake_up(self) -> Millis | None:
        def unit(db: sqlite3.Connection) -> tuple[Transitions, Millis | None]:
            return admission.wake(db, now_ms(), _WOKEN), admission.upcoming(db)

        asked = WorkItem(unit, lambda woken: self._moved(woken[0]), queues=True)
        _, upcoming = await self._writer.ask(asked)
        return None if upcoming is None else int(upcoming)

    def _fingerprint(self, job_id: int) -> bytes | None:
        owner = self._owners.get(job_id)
        return self._outputs.fingerprint(owner) if owner else None


def _requeue(db: sqlite3.Connection, job_id: int, token: str) -> Transitions:
    return lifecycle.requeue(db, job_id, token, now_ms())
