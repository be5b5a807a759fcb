"""The history in one SQLite file: the contract of `store`, kept by a writer, two readers, slots and `runs/`.

Opened by the composition root. Each method is a unit for a lane and what follows from it; what works behind them is
`core`'s. Must not know web, supervisor or config.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import NoSuchQueue, StoreUnavailable
from shellrunner.model import Claim, Done, End, Job, JobSpec, Session, State, Submitter, Volume
from shellrunner.store import (
    ChangeLog,
    DeleteCount,
    DueCallback,
    Filters,
    Head,
    HistorySize,
    IdempotencyKey,
    Output,
    Page,
    Position,
    QueueLimits,
    QueueOverview,
    QueueState,
    Retention,
    Sort,
    Subscription,
)
from shellrunner.store.query import listing
from shellrunner.store.queues import ALL_QUEUES
from shellrunner.store.sqlite.claims import AddJob
from shellrunner.store.sqlite.db_thread import connect, open_reading
from shellrunner.store.sqlite.engine import CALLS, CHANGES, WISHES, Core
from shellrunner.store.sqlite.recovery import Recovery
from shellrunner.store.transition import Transitions
from shellrunner.store.units import bulk_delete, due_callbacks, lifecycle, queue_pauses, rows, sessions
from shellrunner.store.units.admission import NewJob

_DELETED_AT_ONCE = 100
_ANY_NUMBER = QueueLimits()


@asynccontextmanager
async def open_store(
    state_dir: Path, retention: Retention, queues: QueueLimits = _ANY_NUMBER
) -> AsyncIterator["SqliteStore"]:
    """Open the history in this directory, or begin one; it is closed, with everything written, at the end.

    Raises:
        StoreUnavailable: it cannot be opened; the words say why and what to do.
    """
    opening = Recovery(str(state_dir))
    async with (
        connect(opening.open) as writing,
        connect(partial(open_reading, opening.path)) as reading,
        connect(partial(open_reading, opening.path)) as reading_too,
        SqliteStore(opening, writing, (reading, reading_too), (retention, queues), str(state_dir)).working() as store,
    ):
        yield store


class SqliteStore(Core):
    """See `shellrunner.store` for what each method promises."""

    # What the web side says -----------------------------------------------------------------------------

    async def add(self, spec: JobSpec, key: IdempotencyKey | None = None, by: Submitter | None = None) -> Job:
        accepted = NewJob.of(spec, now_ms(), by)

        def added(adding: AddJob) -> None:
            if adding.offer:
                offer, job = adding.offer, adding.value
                at = accepted.created
                claim = Claim(job.id, offer.token, offer.keeper, spec, at, ready=at, run_as=accepted.run_as)
                self._claims.tell(offer, claim, adding.moves)
            else:
                self._moved(adding.moves)

        job: Job = await self._writer.ask(AddJob(accepted, key, added))
        return job

    async def job(self, job_id: int) -> Job:
        return await self._read(lambda db: rows.job(db, job_id))

    async def jobs(self, job_ids: Iterable[int]) -> Sequence[Job]:
        wanted = list(job_ids)
        return await self._read(lambda db: rows.some(db, wanted))

    async def page(self, filters: Filters, sort: Sort, *, limit: int, after: Position | None = None) -> Page:
        return await self._read(lambda db: listing.page(db, filters, sort, limit=limit, after=after))

    async def preview_delete(self, filters: Filters) -> DeleteCount:
        return await self._each(filters, lambda job_ids: self._read(partial(bulk_delete.tell, job_ids=job_ids)))

    async def delete_jobs(self, filters: Filters) -> DeleteCount:
        def deleted(outcome: tuple[DeleteCount, Transitions]) -> None:
            self._moved(outcome[1])

        async def delete(job_ids: list[int]) -> DeleteCount:
            outcome, _ = await self._write(partial(bulk_delete.delete, job_ids=job_ids), deleted, frees=True)
            return outcome

        return await self._each(filters, delete)

    async def _each(self, filters: Filters, step: Callable[[list[int]], Awaitable[DeleteCount]]) -> DeleteCount:
        """Take one step after another over all jobs that are meant; what they came to."""
        total, after = DeleteCount(0, 0), None
        upto = await self._read(bulk_delete.newest)
        while True:
            job_ids, after = await self._read(partial(bulk_delete.meant, filters=filters, upto=upto, after=after))
            if job_ids:
                some = await step(job_ids)
                total = DeleteCount(total.deleted + some.deleted, total.not_done + some.not_done)
            if after is None:
                return total

    async def attempt(self, job_id: int, number: int) -> Done:
        return await self._read(lambda db: rows.attempt(db, job_id, number))

    async def output(self, job_id: int, attempt: int | None = None) -> Output:
        return await self._outputs.find(job_id, self._owners.get(job_id), attempt)

    async def request_cancel(self, job_id: int) -> Job:
        def wished(outcome: tuple[Job, Transitions]) -> None:
            _, moves = outcome
            self._moved(moves)
            if not moves:
                self._bells.ring(WISHES)
                self._rung(job_id)

        job, _ = await self._write(lambda db: lifecycle.request_cancel(db, job_id, now_ms()), wished, frees=True)
        return job

    async def delete_job(self, job_id: int) -> None:
        def deleted(moves: Transitions) -> None:
            self._moved(moves)

        await self._write(lambda db: [lifecycle.delete_job(db, job_id)], deleted, frees=True)

    async def delete_result(self, job_id: int) -> None:
        def deleted(forgotten: tuple[int, int]) -> None:
            size, attempts = forgotten
            self._gone(job_id, size, jobs=0, attempts=attempts)
            self._rung(job_id)

        await self._write(lambda db: lifecycle.delete_result(db, job_id), deleted, frees=True)

    def watch(self, job_id: int) -> AbstractContextManager[Subscription]:
        return self._bells.watch(job_id)

    def watch_changes(self) -> AbstractContextManager[Subscription]:
        return self._bells.watch(CHANGES)

    @property
    def changes(self) -> ChangeLog:
        return self._changes

    async def queues(self) -> QueueOverview:
        names = list(self._queues)
        oldest = await self._read(lambda db: rows.oldest(db, names))
        return QueueOverview(
            ALL_QUEUES in self._queues.paused,
            [self._queue(name, moment) for name, moment in zip(names, oldest, strict=True)],
        )

    def _queue(self, name: str, oldest: Millis | None) -> QueueState:
        queues = self._queues
        running, queued, waiting = (queues.count(name, state) for state in _UNDONE)
        return QueueState(name, queues.limit(name), queues.is_paused(name), running, queued, waiting, oldest)

    async def pause(self, queue: str | None, *, paused: bool) -> QueueOverview:
        if queue is not None and queue not in self._queues:
            raise NoSuchQueue(queue)

        def changed(now_paused: frozenset[str]) -> None:
            self._queues.paused = now_paused
            self._claims.look()

        names = tuple(self._queues)
        await self._write(lambda db: queue_pauses.change(db, names, queue, paused=paused), changed)
        return await self.queues()

    # What the door says -----------------------------------------------------------------------------------

    async def sessions(self) -> Sequence[Session]:
        return await self._read(sessions.read)

    async def change_sessions(self, begun: Sequence[Session], ended: Collection[bytes]) -> None:
        await self._write(lambda db: sessions.change(db, begun, ended))

    # What the caller of callbacks says ------------------------------------------------------------------------

    async def due_callbacks(self, limit: int, skip_hosts: Collection[str] = ()) -> Sequence[DueCallback]:
        return await self._read(lambda db: due_callbacks.due(db, now_ms(), limit, skip_hosts))

    async def next_callback_at(self) -> Millis | None:
        return await self._read(due_callbacks.upcoming)

    async def record_callback_try(self, job_id: int, *, error: str | None, retry_at: Millis | None) -> None:
        await self._write(lambda db: due_callbacks.tried(db, job_id, error, retry_at), self._tried)

    def watch_callbacks(self) -> AbstractContextManager[Subscription]:
        return self._bells.watch(CALLS)

    # What the supervisor says ----------------------------------------------------------------------------

    @property
    def history_id(self) -> str:
        return self._history_id

    @property
    def commits(self) -> int:
        """How many transactions were committed since the opening."""
        return self._writer.commits

    @property
    def size(self) -> HistorySize:
        """How much is kept of jobs that are done."""
        return self._retainer.kept

    async def claim(self, keeper: int, token: str) -> Claim:
        offer = self._claims.offer(keeper, token)
        try:
            return await offer.claim
        except asyncio.CancelledError:
            if not offer.claim.cancelled():
                self._served(offer.claim.result(), [], True)
            raise
        finally:
            self._claims.withdraw(offer)

    async def finish(
        self, job_id: int, token: str, end: End, volume: Volume, head: Head, *, next_attempt_at: Millis | None = None
    ) -> bool:
        def unit(db: sqlite3.Connection) -> Transitions:
            return lifecycle.finish(
                db, job_id, token, end=end, volume=volume, head=head, next_attempt_at=next_attempt_at
            )

        moves: Transitions = await self._write(unit, self._moved, frees=True)
        return bool(moves)

    async def requeue(self, job_id: int, token: str) -> bool:
        return bool(await self._put_back(job_id, token))

    async def running(self) -> Sequence[Claim]:
        return await self._read(rows.running)

    async def cancelling(self) -> Sequence[Claim]:
        return [claim for claim in await self._read(rows.running) if claim.cancelling]

    def watch_cancel_requests(self) -> AbstractContextManager[Subscription]:
        return self._bells.watch(WISHES)

    async def check(self) -> None:
        mark = secrets.token_hex(8)
        if await self._write(lambda db: lifecycle.touch(db, mark)) != mark:
            raise StoreUnavailable("the history does not keep what is written to it")


_UNDONE = (State.RUNNING, State.QUEUED, State.WAITING)
