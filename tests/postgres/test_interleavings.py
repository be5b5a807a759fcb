"""What one node decides while another one holds a transaction open: each order of both has an outcome that may be.

The other node's unit is run, and its commit waits until the first one waits for a lock of it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.model import Job, JobSpec
from shellrunner.model.spec import Notify
from shellrunner.store import QueueLimit, QueueLimits, Store
from shellrunner.store.db import Db
from shellrunner.store.postgres.store import PostgresStore
from shellrunner.store.transition import Transitions
from shellrunner.store.units import admission, editing, lifecycle
from shellrunner.store.values import JobEdit
from tests.postgres.racing import Nodes
from tests.support.histories import NOTHING, SPEC, ended
from tests.support.nodes import Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)
_TIMEOUT = 20.0
_WAITING = """SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"""


@asynccontextmanager
async def held_open(cluster: Cluster, store: Any, unit: Callable[[Db], Transitions]) -> AsyncIterator[None]:
    """Run a unit at a node; it commits once what the block has begun waits for it."""
    has_run, go_on = threading.Event(), threading.Event()

    def change(db: Db) -> Transitions:
        transitions = unit(db)
        has_run.set()
        assert go_on.wait(_TIMEOUT)
        return transitions

    committed = asyncio.ensure_future(store._change(change))
    try:
        assert await asyncio.to_thread(has_run.wait, _TIMEOUT)
        yield

        async def is_waited_for() -> bool:
            return bool((await asyncio.to_thread(cluster.execute, _WAITING))[0][0])

        await until(is_waited_for, what="a transaction waits for the other one")
    finally:
        go_on.set()
        await committed


def cancel(job: Job) -> Callable[[Db], Transitions]:
    """Return the unit that cancels a job."""
    return lambda db: lifecycle.request_cancel(db, job.id, now_ms(), kill_only=False)[1]


def edit(job: Job, **change: Any) -> Callable[[Db], Transitions]:
    """Return the unit that changes a job."""
    given = {key: getattr(job.spec, key) for key in job.spec.model_fields_set}
    after = JobSpec.model_validate(given | change)
    return lambda db: editing.edit(db, JobEdit(job.id, job.spec, after), now_ms(), lambda _: None)[1]


async def claimed(nodes: Nodes, store: Store) -> Any:
    """Add a job and claim it."""
    await store.add(SPEC)
    return await asyncio.wait_for(nodes.claim(store), _TIMEOUT)


@pytest.mark.heavy
async def test_a_job_that_was_cancelled_is_not_skipped_afterwards(cluster: Cluster, nodes: Nodes) -> None:
    """The job for which it waited fails while the cancellation commits: it stays cancelled, and ends once."""
    first = await claimed(nodes, nodes.one)
    follower = await nodes.one.add(JobSpec(command="true", after=(first.job_id,)))
    async with held_open(cluster, nodes.two, cancel(follower)):
        finished = asyncio.ensure_future(nodes.one.finish(first.job_id, first.token, ended(1), *NOTHING))
    assert await finished
    assert await nodes.ending(follower) == "cancelled"
    assert (await nodes.one.size()).jobs == 2


@pytest.mark.heavy
async def test_a_job_that_was_cancelled_and_deleted_harms_no_end(cluster: Cluster, nodes: Nodes) -> None:
    """The end of the job for which it waited is recorded with all consequences."""
    first = await claimed(nodes, nodes.one)
    follower = await nodes.one.add(JobSpec(command="true", after=(first.job_id,)))
    other = await nodes.one.add(JobSpec(command="true", after=(first.job_id,)))

    def remove(db: Db) -> Transitions:
        return [*cancel(follower)(db), lifecycle.delete_job(db, follower.id)]

    async with held_open(cluster, nodes.two, remove):
        finished = asyncio.ensure_future(nodes.one.finish(first.job_id, first.token, ended(1), *NOTHING))
    assert await finished
    assert await nodes.ending(other) == "skipped"
    assert (await nodes.one.size()).jobs == 2


@pytest.mark.heavy
async def test_a_job_for_which_two_fail_at_once_ends_once(cluster: Cluster, nodes: Nodes) -> None:
    """It names the one that was first, and its callback is due once."""
    claims = [await claimed(nodes, store) for store in nodes.both]
    notify = Notify(url="http://localhost:1/")
    spec = JobSpec(command="true", after=tuple(claim.job_id for claim in claims), notify=notify)
    follower = await nodes.one.add(spec)
    one, two = claims

    def fail(db: Db) -> Transitions:
        volume, head = NOTHING
        return lifecycle.finish(db, two.job_id, two.token, end=ended(2), volume=volume, head=head)

    async with held_open(cluster, nodes.two, fail):
        finished = asyncio.ensure_future(nodes.one.finish(one.job_id, one.token, ended(1), *NOTHING))
    assert await finished
    phase: Any = (await nodes.one.job(follower.id)).phase
    assert phase.end.detail == f"it waited for job {two.job_id}, which ended as exited with 2"
    assert (await nodes.one.size()).jobs == 3


@pytest.mark.heavy
async def test_a_job_that_waits_no_longer_for_the_one_that_ends_waits_for_the_others(
    cluster: Cluster, nodes: Nodes
) -> None:
    """`after` is edited while the job that is taken out of it succeeds: the other one is still waited for."""
    one, two = [await claimed(nodes, nodes.one) for _ in range(2)]
    follower = await nodes.one.add(JobSpec(command="true", after=(one.job_id, two.job_id)))
    async with held_open(cluster, nodes.two, edit(follower, after=(two.job_id,))):
        finished = asyncio.ensure_future(nodes.one.finish(one.job_id, one.token, ended(0), *NOTHING))
    assert await finished
    assert (await nodes.one.job(follower.id)).state == "waiting"
    assert await nodes.one.finish(two.job_id, two.token, ended(0), *NOTHING)
    assert (await nodes.one.job(follower.id)).state == "queued"


@pytest.mark.heavy
async def test_a_due_job_that_was_put_off_is_not_queued(cluster: Cluster, nodes: Nodes) -> None:
    """`start_at` is edited while another node queues what is due: the job waits for the new time."""
    soon, later = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (600, 6000))
    job = await nodes.one.add(JobSpec(command="true", start_at=soon.isoformat()))
    async with held_open(cluster, nodes.two, edit(job, start_at=later.isoformat())):
        one: Any = nodes.one
        due = asyncio.ensure_future(one._change(lambda db: admission.queue_due(db, now_ms() + 1_000_000, 10)))
    assert await due == []
    assert (await nodes.one.job(job.id)).state == "waiting"


@pytest.fixture
def queues() -> QueueLimits:
    """Return the limits of a node with two queues."""
    return QueueLimits(queues={"default": QueueLimit(), "other": QueueLimit()})


async def move(store: PostgresStore, job: Job, **change: Any) -> Job:
    """Change a job as a client does."""
    given = {key: getattr(job.spec, key) for key in job.spec.model_fields_set}
    return await store.edit_job(JobEdit(job.id, job.spec, JobSpec.model_validate(given | change)))


@pytest.mark.heavy
async def test_a_job_that_was_moved_to_a_paused_queue_does_not_start(cluster: Cluster, queues: QueueLimits) -> None:
    """Its delivery for the queue that it has left is none; it starts once the other queue is resumed."""
    async with cluster.node("one", queues=queues) as store:
        job = await store.add(SPEC)
        await store.pause("other", paused=True)
        await move(store, job, queue="other")
        behind = await store.add(SPEC)
        assert (await asyncio.wait_for(store.claim(1, "t"), _TIMEOUT)).job_id == behind.id
        assert (await store.job(job.id)).state == "queued"
        await store.pause("other", paused=False)
        assert (await asyncio.wait_for(store.claim(1, "u"), _TIMEOUT)).job_id == job.id


@pytest.mark.heavy
@pytest.mark.parametrize(("before", "after"), [(0, 5), (5, -5)])
async def test_an_edited_priority_counts(cluster: Cluster, before: int, after: int) -> None:
    """Of two queued jobs, one of which was given another priority, the one with the higher one starts first."""
    async with cluster.node("one") as store:
        other = await store.add(JobSpec(command="true", priority=0))
        job = await store.add(JobSpec(command="true", priority=before))
        await move(store, job, priority=after)
        order = [(await asyncio.wait_for(store.claim(1, token), _TIMEOUT)).job_id for token in ("t", "u")]
        assert order == ([job.id, other.id] if after > 0 else [other.id, job.id])
