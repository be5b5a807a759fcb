"""The store in SQLite: each method of the contract is a unit of work and its consequences.

Built by `composition`, which hands in the parts. Must not know connections, batches, web, supervisor or config.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import (
    InvalidJobs,
    NoSuchQueue,
    QueueConfigured,
    ShellrunnerError,
    StoreUnavailable,
    TooManyQueues,
)
from shellrunner.model import (
    Claim,
    Delivery,
    Done,
    End,
    Ending,
    Job,
    JobSpec,
    Pending,
    Queued,
    Session,
    State,
    Submitter,
    Volume,
)
from shellrunner.sealing.digest_key import DigestKey
from shellrunner.sealing.job_keys import JobKeys
from shellrunner.store import (
    ChangeLog,
    DeleteCount,
    DueCallback,
    Filters,
    Head,
    HistoryIdentity,
    HistorySize,
    Hold,
    IdempotencyKey,
    JobEdit,
    Output,
    Page,
    Position,
    QueueLimit,
    QueueOverview,
    QueueState,
    SlotClaim,
    Sort,
    SubmitterLimit,
    Subscription,
    rows,
)
from shellrunner.store.components.batch_queue import WorkItem
from shellrunner.store.components.bulk_changes import BulkChanges
from shellrunner.store.db import Db
from shellrunner.store.notifications import Topic
from shellrunner.store.output import EndedOutput
from shellrunner.store.output.location import locate_ended
from shellrunner.store.output.reader import OutputReader
from shellrunner.store.pagination import ListedJob
from shellrunner.store.query import listing
from shellrunner.store.queues import ALL_QUEUES, DEFAULT_QUEUE, MAX_QUEUES
from shellrunner.store.sqlite.add_jobs import AddJobs, EditJob
from shellrunner.store.sqlite.claim_requests import ClaimRequests
from shellrunner.store.sqlite.claims import Claims
from shellrunner.store.sqlite.effects.clock_watch import ClockWatch
from shellrunner.store.sqlite.effects.commit_effects import CommitEffects
from shellrunner.store.sqlite.effects.generation import GenerationCounter
from shellrunner.store.sqlite.engine.engine import Engine
from shellrunner.store.sqlite.point_reads import PointReads
from shellrunner.store.sqlite.queueing_item import QueueingItem
from shellrunner.store.sqlite.single_host import SingleHost
from shellrunner.store.state_files.high_water import HighWaterFile
from shellrunner.store.transition import Transitions
from shellrunner.store.units import due_callbacks, lifecycle, queue_limits, queue_pauses, sessions
from shellrunner.store.units.admission import NewJob


@dataclass(frozen=True, slots=True)
class Parts:
    """What a store is made of."""

    generation: GenerationCounter
    engine: Engine
    effects: CommitEffects
    requests: ClaimRequests
    claims: Claims
    point_reads: PointReads
    outputs: OutputReader
    clock: ClockWatch
    high_water: HighWaterFile
    keys: JobKeys
    digests: DigestKey
    bulk: BulkChanges
    unknown_input_up_to: int
    hosts: SingleHost


class SqliteStore:
    """See `shellrunner.store` for what each method promises."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._effects = parts.effects

    # History --------------------------------------------------------------------------------------------------------

    @property
    def history_id(self) -> str:
        return self.identity.history_id

    @property
    def identity(self) -> HistoryIdentity:
        return self._parts.generation.identity

    @property
    def held(self) -> Hold | None:
        return self._effects.counts.pauses.held

    @property
    def hosts(self) -> SingleHost:
        return self._parts.hosts

    @property
    def unknown_input_up_to(self) -> int:
        return self._parts.unknown_input_up_to

    @property
    def orders(self) -> None:
        return None

    async def advance_generation(self) -> None:
        await self._parts.generation.advance()

    async def add(
        self,
        spec: JobSpec,
        key: IdempotencyKey | None = None,
        by: Submitter | None = None,
        *,
        again_of: int | None = None,
    ) -> Job:
        try:
            (job,) = await self._add([NewJob.accept(spec, now_ms(), by, again_of=again_of)], key)
        except InvalidJobs as error:
            raise error.by_index[0] from None
        return job

    async def add_many(
        self, specs: Sequence[JobSpec], key: IdempotencyKey | None = None, by: Submitter | None = None
    ) -> Sequence[Job]:
        now = now_ms()
        return await self._add([NewJob.accept(spec, now, by) for spec in specs], key)

    async def _add(self, new: Sequence[NewJob], key: IdempotencyKey | None) -> Sequence[Job]:
        # What the batch does with them, and how they may be claimed in the same commit: the diagram in `claims`.
        parts = self._parts
        if key is not None:
            key = replace(key, digest=await parts.digests.apply(key.digest))
        if with_secrets := [each for each in new if each.secrets is not None]:
            for each, job_key in zip(with_secrets, await parts.keys.create(len(with_secrets)), strict=True):
                each.key = job_key
        item = AddJobs(
            new, key, parts.high_water, parts.claims.jobs_added, parts.clock.now, discard_key=parts.keys.discard
        )
        jobs: list[Job] = await self._engine.writes.submit(item)
        return jobs

    def why_queued(self, queued: Queued) -> Pending:
        return self._effects.counts.why_queued(queued, self._engine.claim_refusal())

    async def edit_job(self, edit: JobEdit) -> Job:
        edited: tuple[Job, Transitions] = await self._engine.writes.submit(EditJob(edit, self._effects.committed))
        return edited[0]

    async def job(self, job_id: int) -> Job:
        return await self._parts.point_reads.run(job_id, lambda db: rows.job(db, job_id))

    async def stored_job(self, job_id: int) -> ListedJob:
        return await self._parts.point_reads.run(job_id, lambda db: rows.stored(db, job_id))

    async def submitter(self, job_id: int) -> tuple[str | None, str | None]:
        return await self._parts.point_reads.run(job_id, lambda db: rows.submitter(db, job_id))

    async def jobs(self, job_ids: Iterable[int]) -> Sequence[Job]:
        wanted = list(job_ids)
        return await self._engine.read(lambda db: rows.jobs(db, wanted))

    async def page(
        self, filters: Filters, sort: Sort, *, limit: int, after: Position | None = None, with_spec: bool = True
    ) -> Page:
        read = partial(listing.page, filters=filters, sort=sort, limit=limit, after=after, with_spec=with_spec)
        return await self._engine.read(read)

    async def last_outputs(self, job_ids: Sequence[int]) -> Mapping[int, EndedOutput]:
        return self._parts.outputs.open_ended(await self._engine.read(lambda db: locate_ended(db, job_ids)))

    async def preview_delete(self, filters: Filters) -> DeleteCount:
        return await self._parts.bulk.preview_delete(filters)

    async def delete_jobs(
        self, filters: Filters, on_deleted: Callable[[Sequence[int]], object] = tuple
    ) -> DeleteCount:
        return await self._parts.bulk.delete(filters, on_deleted)

    async def preview_cancel(self, filters: Filters) -> int:
        return await self._parts.bulk.preview_cancel(filters)

    async def cancel_jobs(
        self,
        filters: Filters,
        on_cancelled: Callable[[Sequence[int]], object] = tuple,
        *,
        kill_only: bool = False,
    ) -> int:
        return await self._parts.bulk.cancel(filters, on_cancelled, kill_only=kill_only)

    async def attempt(self, job_id: int, number: int) -> Done:
        return await self._parts.point_reads.run(job_id, lambda db: rows.attempt(db, job_id, number))

    async def output(self, job_id: int, attempt: int | None = None) -> Output:
        return await self._parts.outputs.find(job_id, self._effects.owners.get(job_id), attempt)

    async def request_cancel(self, job_id: int, *, kill_only: bool = False) -> Job:
        job, _ = await self._engine.write(
            lambda db: lifecycle.request_cancel(db, job_id, now_ms(), kill_only=kill_only),
            lambda outcome: self._effects.committed(outcome[1]),
            frees_space=True,
        )
        return job

    async def delete_job(self, job_id: int) -> None:
        await self._write(lambda db: [lifecycle.delete_job(db, job_id)], frees_space=True)

    async def delete_result(self, job_id: int) -> None:
        await self._write(lambda db: [lifecycle.delete_result(db, job_id)], frees_space=True)

    async def _write(self, unit: Callable[[Db], Transitions], *, frees_space: bool = False) -> Transitions:
        return await self._engine.write(unit, self._effects.committed, frees_space=frees_space)

    def watch(self, job_id: int) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(job_id)

    def watch_output(self, job_id: int) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe_to_output(job_id)

    def watch_changes(self) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(Topic.ALL_JOBS)

    @property
    def changes(self) -> ChangeLog:
        return self._effects.changes

    async def queues(self) -> QueueOverview:
        counts = self._effects.counts
        names = list(counts)
        oldest = await self._engine.read(lambda db: rows.oldest_queued(db, names))
        states = [self._queue_state(name, moment) for name, moment in zip(names, oldest, strict=True)]
        return QueueOverview(ALL_QUEUES in counts.pauses.queues, states, counts.pauses.held)

    def _queue_state(self, name: str, oldest: Millis | None) -> QueueState:
        counts = self._effects.counts
        return QueueState(
            name,
            limit=counts.limit(name),
            is_configured=name in counts.configured,
            paused=counts.is_paused(name),
            running=counts.count(name, State.RUNNING),
            queued=counts.count(name, State.QUEUED),
            waiting=counts.count(name, State.WAITING),
            oldest=oldest,
        )

    async def pause(self, queue: str | None, *, paused: bool) -> QueueOverview:
        names = tuple(self._effects.counts)
        if queue is not None and queue not in names:
            raise NoSuchQueue(queue)
        await self._engine.write(
            lambda db: queue_pauses.change(db, names, queue, paused=paused), self._effects.pauses_committed
        )
        return await self.queues()

    @property
    def queue_names(self) -> Collection[str]:
        return self._effects.counts.limits.keys()

    async def limit_queue(self, queue: str, limit: QueueLimit) -> bool:
        counts, is_new = self._effects.counts, False
        if queue not in counts and len(counts.limits) >= MAX_QUEUES:
            raise TooManyQueues(MAX_QUEUES)
        is_as_configured = counts.configured.get(queue) == limit

        def committed(limits: Mapping[str, QueueLimit]) -> None:
            nonlocal is_new
            is_new = queue not in counts
            self._effects.queue_limits_committed(limits)

        await self._engine.write(
            lambda db: queue_limits.change(db, queue, None if is_as_configured else limit), committed
        )
        return is_new

    async def remove_queue(self, queue: str) -> None:
        counts = self._effects.counts
        if queue not in counts:
            raise NoSuchQueue(queue)
        if queue in counts.configured:
            raise QueueConfigured(queue)
        await self._engine.write(
            lambda db: queue_limits.remove(db, queue),
            lambda removed: self._effects.queue_removed(queue, removed),
            frees_space=True,
        )

    def limit_submitters(self, limits: Mapping[str, SubmitterLimit]) -> None:
        self._effects.counts.limit_submitters(limits)
        self._parts.requests.wake_if_startable()

    # Work -----------------------------------------------------------------------------------------------------------

    async def claim(self, keeper: int, token: str) -> Claim:
        request = self._parts.requests.add(keeper, token)
        try:
            return await request.future
        except asyncio.CancelledError:
            if not request.future.cancelled():  # it was committed, and delivered too late
                self._parts.claims.put_back(request.future.result())
            raise
        finally:
            self._parts.requests.remove(request)

    def finish(
        self, job_id: int, token: str, end: End, volume: Volume, head: Head, *, next_attempt_at: Millis | None = None
    ) -> asyncio.Future[bool]:
        unit = partial(
            lifecycle.finish,
            job_id=job_id,
            token=token,
            end=end,
            volume=volume,
            head=head,
            next_attempt_at=next_attempt_at,
        )
        self._forget_owner(job_id, token)
        return self._change(WorkItem, unit)

    def _forget_owner(self, job_id: int, token: str) -> None:
        """Have output be found by the row, which is right before and after the commit of the end.

        The slot may be short of what the end says, if it could not be written. Those who follow read it once more.
        """
        owner = self._effects.owners.get(job_id)
        if owner is not None and owner.token == token:
            self._effects.notifications.notify(job_id)
            del self._effects.owners[job_id]

    def requeue(self, job_id: int, token: str) -> asyncio.Future[bool]:
        return self._change(QueueingItem, lambda db: lifecycle.requeue(db, job_id, token, now_ms()))

    def _change(
        self, make_item: type[WorkItem] | type[QueueingItem], unit: Callable[[Db], Transitions]
    ) -> asyncio.Future[bool]:
        """Run the unit in the next write batch; the future says whether it has changed a job."""
        changed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def committed(transitions: Transitions) -> None:
            self._effects.committed(transitions)
            if not changed.done():
                changed.set_result(bool(transitions))

        def failed(error: Exception) -> None:
            if not changed.done():
                changed.set_exception(error)

        try:
            self._engine.writes.put(make_item(unit, committed, on_failure=failed, frees_space=True))
        except StoreUnavailable as closed:
            failed(closed)
        return changed

    async def running(self) -> Sequence[Claim]:
        return await self._engine.read(rows.running)

    async def lost_claims(self, find: Callable[[], Sequence[SlotClaim]], /) -> Sequence[Claim]:
        return ()

    async def cancelling(self) -> Sequence[Claim]:
        return await self._engine.read(rows.cancelling)

    def command_changed(self, job_id: int) -> None:
        self._effects.command_changed(job_id)

    def watch_cancel_requests(self) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(Topic.CANCEL_REQUESTS)

    # Callbacks ------------------------------------------------------------------------------------------------------

    async def due_callbacks(self, limit: int, skip_hosts: Collection[str] = ()) -> Sequence[DueCallback]:
        if self.held:
            return []
        return await self._engine.read(lambda db: due_callbacks.due(db, now_ms(), limit, skip_hosts))

    async def next_callback_at(self) -> Millis | None:
        return None if self.held else await self._engine.read(due_callbacks.next_due)

    async def record_callback_try(self, job_id: int, *, error: str | None, retry_at: Millis | None) -> None:
        await self._engine.write(
            lambda db: due_callbacks.record_try(db, job_id, error, retry_at), self._effects.callback_try_committed
        )

    def seen_now(self) -> Millis:
        return self._parts.clock.now()

    def watch_callbacks(self) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(Topic.CALLBACKS)

    # Sessions -------------------------------------------------------------------------------------------------------

    async def sessions(self) -> Sequence[Session]:
        return await self._engine.read(sessions.read)

    async def session(self, digest: bytes) -> Session | None:
        return await self._engine.read(lambda db: sessions.find(db, digest))

    async def change_sessions(
        self, begun: Sequence[Session], ended: Collection[bytes], ended_tokens: Collection[str] = ()
    ) -> None:
        await self._engine.write(lambda db: sessions.change(db, begun, ended, ended_tokens), frees_space=not begun)

    def watch_sessions(self) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(Topic.SESSIONS)  # of which there are none: no process shares it

    # Figures --------------------------------------------------------------------------------------------------------

    async def size(self) -> HistorySize:
        return await self._effects.trimmer.size()

    @property
    def endings(self) -> Counter[tuple[str, Ending]]:
        return self._effects.endings

    @property
    def callback_tries(self) -> Counter[Delivery]:
        return self._effects.callback_tries

    @property
    def removals(self) -> Counter[str]:
        return self._effects.trimmer.removals

    @property
    def unconfirmed_time(self) -> float:
        return self._parts.clock.unconfirmed / 1000

    @property
    def cluster(self) -> None:
        return None

    @property
    def commits(self) -> int:
        return self._engine.commits

    def refusals(self) -> Sequence[ShellrunnerError]:
        found: list[ShellrunnerError | None] = [self._engine.refusal(), self._parts.claims.refusal(DEFAULT_QUEUE)]
        return [error for error in found if error is not None]

    async def check(self) -> None:
        mark, clock = secrets.token_hex(8), self._parts.clock

        def write(db: Db) -> tuple[str, Millis]:
            shift = clock.settle(db)
            clock.write_mark(db)
            return lifecycle.write_mark(db, mark), shift

        def written(outcome: tuple[str, Millis]) -> None:
            clock.settled(outcome[1])
            if outcome[1]:
                self._effects.due_timer.check()

        read_back, _ = await self._engine.write(write, written)
        if read_back != mark:
            raise StoreUnavailable("the history does not keep what is written to it")
