"""The store on PostgreSQL: each method of the contract is a unit of work and its consequences.

Built by `composition`, which hands in the parts. Must not know connections, batches, web, supervisor or config.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from shellrunner.clock import Millis
from shellrunner.errors import (
    InvalidJobs,
    NoSuchQueue,
    QueueConfigured,
    QueueFull,
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
    PendingReason,
    Queued,
    Session,
    State,
    Submitter,
    Volume,
)
from shellrunner.sealing import sealed_text
from shellrunner.store import (
    ChangeLog,
    ClusterFigures,
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
from shellrunner.store.components.bulk_changes import BulkChanges
from shellrunner.store.components.queue_counts import Places
from shellrunner.store.db import Db
from shellrunner.store.notifications import Topic
from shellrunner.store.output import EndedOutput
from shellrunner.store.output.location import locate_ended
from shellrunner.store.pagination import ListedJob
from shellrunner.store.postgres import secrets_reading
from shellrunner.store.postgres.add_jobs import AddJobsItem, EditJobItem
from shellrunner.store.postgres.claims import NodeClaims
from shellrunner.store.postgres.effects.node_effects import NodeEffects
from shellrunner.store.postgres.effects.outbox import Flag
from shellrunner.store.postgres.effects.retention_task import RetentionTask
from shellrunner.store.postgres.effects.unwanted_commands import UnwantedCommands
from shellrunner.store.postgres.engine.group_commit import ChangeItem
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.hosts.membership import Membership
from shellrunner.store.postgres.node import node_jobs
from shellrunner.store.postgres.node.claim_queue import ClaimQueue
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.postgres.node.settings_view import SettingsView
from shellrunner.store.postgres.orders.order_exchange import OrderExchange
from shellrunner.store.postgres.output_chunks.node_output import NodeOutput
from shellrunner.store.postgres.transaction import advisory, situation
from shellrunner.store.postgres.transaction.situation import TransactionState
from shellrunner.store.query import listing
from shellrunner.store.query.walk import PlanText
from shellrunner.store.queues import ALL_QUEUES, DEFAULT_QUEUE, MAX_QUEUES, Line
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle, queue_limits, queue_pauses, sessions
from shellrunner.store.units.admission import NewJob


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a store is made of."""

    identity: HistoryIdentity
    digest_key: bytes
    engine: PostgresEngine
    state: TransactionState
    effects: NodeEffects
    waiting: ClaimQueue
    claims: NodeClaims
    output: NodeOutput
    clock: DatabaseClock
    settings: SettingsView
    retention: RetentionTask
    bulk: BulkChanges
    unwanted: UnwantedCommands
    plan_text: PlanText
    membership: Membership
    orders: OrderExchange
    figures: Callable[[], ClusterFigures]
    unknown_input_up_to: int


class PostgresStore:
    """See `shellrunner.store` for what each method promises."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self.identity, self.hosts, self.orders = parts.identity, parts.membership.registry, parts.orders
        self._engine = parts.engine
        self._effects = parts.effects
        self._now = parts.clock.now
        self._node = parts.state.node.name

    # History --------------------------------------------------------------------------------------------------------

    @property
    def history_id(self) -> str:
        return self.identity.history_id

    @property
    def held(self) -> Hold | None:
        return self._parts.settings.held

    @property
    def unknown_input_up_to(self) -> int:
        return self._parts.unknown_input_up_to

    async def advance_generation(self) -> None:
        """Do nothing: that a database was restored is declared by `migrate --after-restore`."""

    async def add(
        self,
        spec: JobSpec,
        key: IdempotencyKey | None = None,
        by: Submitter | None = None,
        *,
        again_of: int | None = None,
    ) -> Job:
        try:
            (job,) = await self._add([NewJob.accept(spec, self._now(), by, again_of=again_of)], key)
        except InvalidJobs as error:
            raise error.by_index[0] from None
        return job

    async def add_many(
        self, specs: Sequence[JobSpec], key: IdempotencyKey | None = None, by: Submitter | None = None
    ) -> Sequence[Job]:
        now = self._now()
        return await self._add([NewJob.accept(spec, now, by) for spec in specs], key)

    async def _add(self, new: Sequence[NewJob], key: IdempotencyKey | None) -> Sequence[Job]:
        if key is not None:
            key = replace(key, digest=secrets_reading.keyed_digest(self._parts.digest_key, key.digest))
        if with_secrets := [each for each in new if each.secrets is not None]:
            await asyncio.to_thread(sealed_text.load_cipher)
            for each in with_secrets:
                each.key = secrets_reading.create_key()
        jobs: list[Job] = await self._engine.writes.submit(
            AddJobsItem(new, key, self._parts.state, self._jobs_added, self._now)
        )
        return jobs

    def _jobs_added(self, item: AddJobsItem) -> None:
        self._effects.committed(item.transitions)
        for keeper, claim in item.paired:
            self._parts.claims.deliver(keeper, claim)

    def _item_committed(self, item: ChangeItem) -> None:
        self._effects.committed(item.transitions)

    def why_queued(self, queued: Queued) -> Pending:
        found = self._parts.settings.counts.why_queued(queued, self._engine.refusal())
        if found.reason is PendingReason.PLACES and not self._parts.membership.is_served(queued.queue):
            why = "each is drained, stopped, unreachable or for others"
            return Pending(PendingReason.PLACES, f"no host runs jobs of queue {queued.queue} now: {why}")
        return found

    async def edit_job(self, edit: JobEdit) -> Job:
        job: Job = await self._engine.writes.submit(
            EditJobItem(edit, self._parts.state, self._item_committed, self._now)
        )
        return job

    async def job(self, job_id: int) -> Job:
        return await self._engine.read(lambda db: rows.job(db, job_id))

    async def stored_job(self, job_id: int) -> ListedJob:
        return await self._engine.read(lambda db: rows.stored(db, job_id))

    async def submitter(self, job_id: int) -> tuple[str | None, str | None]:
        return await self._engine.read(lambda db: rows.submitter(db, job_id))

    async def jobs(self, job_ids: Iterable[int]) -> Sequence[Job]:
        wanted = list(job_ids)
        return await self._engine.read(lambda db: rows.jobs(db, wanted))

    async def page(
        self, filters: Filters, sort: Sort, *, limit: int, after: Position | None = None, with_spec: bool = True
    ) -> Page:
        read = partial(
            listing.page,
            filters=filters,
            sort=sort,
            limit=limit,
            after=after,
            with_spec=with_spec,
            plan_text=self._parts.plan_text,
        )
        return await self._engine.read(read)

    async def last_outputs(self, job_ids: Sequence[int]) -> Mapping[int, EndedOutput]:
        return self._parts.output.reader.open_ended(await self._engine.read(lambda db: locate_ended(db, job_ids)))

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
        return await self._engine.read(lambda db: rows.attempt(db, job_id, number))

    async def output(self, job_id: int, attempt: int | None = None) -> Output:
        return await self._parts.output.find(job_id, attempt)

    async def request_cancel(self, job_id: int, *, kill_only: bool = False) -> Job:
        return await self._parts.unwanted.request_cancel(job_id, kill_only=kill_only)

    async def delete_job(self, job_id: int) -> None:
        await self._parts.unwanted.delete_job(job_id)

    async def delete_result(self, job_id: int) -> None:
        await self._change(lambda db: [lifecycle.delete_result(db, job_id)])

    async def _change(self, unit: Callable[[Db], Transitions]) -> Transitions:
        def change(db: Db) -> tuple[Transitions, Transitions]:
            transitions = unit(db)
            return transitions, transitions

        return await self._engine.change(change, self._effects.committed)

    def watch(self, job_id: int) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(job_id)

    def watch_output(self, job_id: int) -> AbstractContextManager[Subscription]:
        return self._watch_output(job_id)

    @contextmanager
    def _watch_output(self, job_id: int) -> Iterator[Subscription]:
        following = self._parts.output.followers.following(job_id)
        with self._effects.notifications.subscribe_to_output(job_id) as subscription, following:
            yield subscription

    def watch_changes(self) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(Topic.ALL_JOBS)

    @property
    def changes(self) -> ChangeLog:
        return self._effects.changes

    async def queues(self) -> QueueOverview:
        counts = (await self._parts.settings.read()).counts
        names = list(counts)
        oldest = await self._engine.read(lambda db: rows.oldest_queued(db, names))
        states = [
            QueueState(
                name,
                limit=counts.limit(name),
                is_configured=name in counts.configured,
                paused=counts.is_paused(name),
                running=counts.count(name, State.RUNNING),
                queued=counts.count(name, State.QUEUED),
                waiting=counts.count(name, State.WAITING),
                oldest=moment,
            )
            for name, moment in zip(names, oldest, strict=True)
        ]
        return QueueOverview(ALL_QUEUES in counts.pauses.queues, states, counts.pauses.held)

    async def pause(self, queue: str | None, *, paused: bool) -> QueueOverview:
        def change(db: Db) -> None:
            advisory.lock(db, advisory.CLAIMS)
            names = tuple(situation.read(db, self._node, self._parts.state.limits).counts)
            if queue is not None and queue not in names:
                raise NoSuchQueue(queue)
            queue_pauses.change(db, names, queue, paused=paused)
            self._parts.state.settings_changed()

        await self._engine.write(change, self._settings_committed)
        return await self.queues()

    @property
    def queue_names(self) -> Collection[str]:
        return self._parts.settings.counts.limits.keys()

    async def limit_queue(self, queue: str, limit: QueueLimit) -> bool:
        name, limits = self._node, self._parts.state.limits

        def change(db: Db) -> bool:
            advisory.lock(db, advisory.CLAIMS)
            advisory.lock(db, advisory.ADMISSION)
            counts = situation.read(db, name, limits).counts
            if queue not in counts and len(counts.limits) >= MAX_QUEUES:
                raise TooManyQueues(MAX_QUEUES)
            is_as_configured = counts.configured.get(queue) == limit
            queue_limits.change(db, queue, None if is_as_configured else limit)
            self._parts.state.settings_changed()
            return queue not in counts

        is_new = await self._engine.write(change, self._settings_committed)
        await self._parts.settings.read()
        return is_new

    async def remove_queue(self, queue: str) -> None:
        def remove(db: Db) -> None:
            advisory.lock(db, advisory.CLAIMS)
            advisory.lock(db, advisory.ADMISSION)
            counts = situation.read(db, self._node, self._parts.state.limits).counts
            if queue not in counts:
                raise NoSuchQueue(queue)
            if queue in counts.configured:
                raise QueueConfigured(queue)
            queue_limits.remove(db, queue)
            self._parts.state.settings_changed()

        await self._engine.write(remove, self._settings_committed)
        await self._parts.settings.read()

    def _settings_committed(self, _: object) -> None:
        self._effects.pauses_committed(self._parts.settings.situation.pauses)

    def limit_submitters(self, limits: Mapping[str, SubmitterLimit]) -> None:
        self._parts.state.limits = replace(self._parts.state.limits, submitters=limits)
        self._effects.settings_changed()

    # Work -----------------------------------------------------------------------------------------------------------

    async def claim(self, keeper: int, token: str) -> Claim:
        waiting = self._parts.waiting.add(keeper, token)
        try:
            return self._parts.orders.own_commands.claimed(await waiting.future)
        except asyncio.CancelledError:
            if not waiting.future.cancelled():  # it was committed, and delivered too late
                self._parts.claims.put_back(waiting.future.result())
            raise
        finally:
            self._parts.waiting.remove(waiting)

    def finish(
        self, job_id: int, token: str, end: End, volume: Volume, head: Head, *, next_attempt_at: Millis | None = None
    ) -> asyncio.Future[bool]:
        # Delays are kept whatever the clock of this node says.
        due = None if next_attempt_at is None else next_attempt_at - self._parts.clock.difference
        owner = self._effects.forget_owner(job_id, token)
        return self._parts.membership.ends.finish(job_id, token, end, volume, head, owner=owner, next_attempt_at=due)

    def requeue(self, job_id: int, token: str) -> asyncio.Future[bool]:
        return self._parts.membership.ends.requeue(job_id, token, self._now)

    async def running(self) -> Sequence[Claim]:
        return await self._engine.read(lambda db: node_jobs.running(db, self._node))

    async def lost_claims(self, find: Callable[[], Sequence[SlotClaim]], /) -> Sequence[Claim]:
        return await self._parts.membership.lost_claims(find())

    async def cancelling(self) -> Sequence[Claim]:
        return await self._engine.read(lambda db: node_jobs.cancelling(db, self._node))

    def command_changed(self, job_id: int) -> None:
        self._effects.command_changed(job_id)

    def watch_cancel_requests(self) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(Topic.CANCEL_REQUESTS)

    # Callbacks ------------------------------------------------------------------------------------------------------

    async def due_callbacks(self, limit: int, skip_hosts: Collection[str] = ()) -> Sequence[DueCallback]:
        if self.held:
            return []
        return await self._engine.write(
            lambda db: node_jobs.lease_callbacks(db, self._node, self._now(), limit, skip_hosts)
        )

    async def next_callback_at(self) -> Millis | None:
        due = None if self.held else await self._engine.read(lambda db: node_jobs.next_callback(db, self._node))
        return None if due is None else due + self._parts.clock.difference

    async def record_callback_try(self, job_id: int, *, error: str | None, retry_at: Millis | None) -> None:
        due = None if retry_at is None else retry_at - self._parts.clock.difference
        await self._engine.write(
            lambda db: node_jobs.record_callback_try(db, self._node, job_id, error, due),
            self._effects.callback_try_committed,
        )

    def seen_now(self) -> Millis:
        return self._now()

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
        await self._engine.write(
            lambda db: sessions.change(db, begun, ended, ended_tokens),
            lambda _: self._effects.outbox.add_flag(Flag.SESSIONS),
        )

    def watch_sessions(self) -> AbstractContextManager[Subscription]:
        return self._effects.notifications.subscribe(Topic.SESSIONS)

    # Figures --------------------------------------------------------------------------------------------------------

    async def size(self) -> HistorySize:
        return await self._parts.retention.size()

    @property
    def endings(self) -> Counter[tuple[str, Ending]]:
        return self._effects.endings

    @property
    def callback_tries(self) -> Counter[Delivery]:
        return self._effects.callback_tries

    @property
    def removals(self) -> Counter[str]:
        return self._parts.retention.removals

    @property
    def unconfirmed_time(self) -> float:
        return self._parts.clock.difference / 1000

    @property
    def commits(self) -> int:
        return self._engine.commits

    @property
    def cluster(self) -> ClusterFigures:
        return self._parts.figures()

    def refusals(self) -> Sequence[ShellrunnerError]:
        full: QueueFull | ShellrunnerError | None = self._parts.settings.counts.refusal(
            Places([Line(DEFAULT_QUEUE, None)]), Places()
        )
        return [error for error in (self._engine.refusal(), full) if error is not None]

    async def check(self) -> None:
        mark = secrets.token_hex(8)
        read_back = await self._engine.write(lambda db: node_jobs.write_mark(db, self._node, mark))
        if read_back != mark:
            raise StoreUnavailable("the history does not keep what is written to it")
