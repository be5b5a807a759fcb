"""Jobs that wait for others, for a time or for another attempt, and the limits of their queues."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shellrunner.errors import InvalidJob, NoSuchAttempt, NoSuchQueue, QueueFull, StoreUnavailable
from shellrunner.model import (
    Delivery,
    Done,
    End,
    Ending,
    Job,
    JobSpec,
    Notify,
    Queued,
    Retries,
    Running,
    State,
    Volume,
    Waiting,
)
from shellrunner.store import Head, IdempotencyKey, QueueLimit, QueueLimits
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import NOTHING, SPEC, ended, opened, running
from tests.support.waiting import until

INDEXED = """SELECT count(*) FROM search WHERE search MATCH '"най"'"""


def after(*jobs: int, **more: Any) -> JobSpec:
    return JobSpec(command="true", after=jobs, **more)


async def state(store: SqliteStore, job_id: int) -> State:
    return (await store.job(job_id)).state


async def test_a_job_starts_when_all_it_waits_for_exited_with_0(tmp_path: Path) -> None:
    """A job waits while one of two is not done, and is queued by the end of the second."""
    async with opened(tmp_path) as store:
        first, second = await running(store, "a"), await running(store, "b")
        job = await store.add(after(first.job_id, second.job_id, first.job_id))
        assert isinstance(job.phase, Waiting)
        await store.finish(first.job_id, "a", ended(), *NOTHING)
        assert await state(store, job.id) is State.WAITING
        await store.finish(second.job_id, "b", ended(), *NOTHING)
        assert (await store.claim(1, "c")).job_id == job.id


@pytest.mark.parametrize("how", [ended(3), End(Ending.LOST, 1, detail="?"), End(Ending.CANCELLED, 1)])
async def test_a_failure_skips_all_that_waited_for_it(tmp_path: Path, how: End) -> None:
    """Jobs that wait for a failed one, directly or not, end as skipped, and name the job that they waited for."""
    async with opened(tmp_path) as store:
        first = await running(store, "a")
        second = await store.add(after(first.job_id))
        third = await store.add(after(second.id))
        with store.watch(third.id) as subscription:
            await store.finish(first.job_id, "a", how, *NOTHING)
            await asyncio.wait_for(subscription.wait(), 5)
        for job, awaited in ((second, first.job_id), (third, second.id)):
            phase = (await store.job(job.id)).phase
            assert isinstance(phase, Done)
            assert phase.end.ending is Ending.SKIPPED
            assert f"job {awaited}," in (phase.end.detail or "")
        late = await store.add(after(third.id))
        assert late.state is State.DONE, "it was over before it was asked for"


async def test_a_cancelled_waiting_job_skips_its_dependents(tmp_path: Path) -> None:
    """A cancelled waiting job is done, its dependents are skipped, and the end it waited for changes nothing."""
    async with opened(tmp_path) as store:
        first = await running(store, "a")
        second = await store.add(after(first.job_id))
        third = await store.add(after(second.id))
        cancelled = await store.request_cancel(second.id)
        assert isinstance(cancelled.phase, Done)
        assert await state(store, third.id) is State.DONE
        await store.finish(first.job_id, "a", ended(), *NOTHING)
        assert (await store.job(second.id)).phase == cancelled.phase


async def test_an_unknown_job_cannot_be_waited_for(tmp_path: Path) -> None:
    """Each unknown id is named with its position, and nothing is accepted."""
    async with opened(tmp_path) as store:
        job = await store.add(SPEC)
        with pytest.raises(InvalidJob) as refused:
            await store.add(after(job.id, 77, 78))
        assert [fault["pointer"] for fault in refused.value.members["errors"]] == ["#/after/1", "#/after/2"]
        assert (await store.add(SPEC)).id == job.id + 1


async def test_a_job_starts_not_before_its_start_at(tmp_path: Path) -> None:
    """A job with a start time waits until then, also across a restart; if it has passed, it is queued."""
    async with opened(tmp_path) as store:
        soon = (datetime.now(UTC) + timedelta(seconds=0.4)).isoformat()
        job = await store.add(JobSpec(command="true", start_at=soon))
        assert isinstance(job.phase, Waiting)
        past = await store.add(JobSpec(command="true", start_at="2001-01-01T00:00:00Z"))
        assert isinstance(past.phase, Queued)
    async with opened(tmp_path) as store:
        assert (await store.claim(1, "a")).job_id == past.id
        claim = await asyncio.wait_for(store.claim(1, "b"), 10)
        assert claim.job_id == job.id
        assert claim.claimed >= round(datetime.fromisoformat(soon).timestamp() * 1000)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("2030-01-01T00:00:00.097001Z", "2030-01-01T00:00:00.098Z"),
        ("2030-01-01T00:00:00.097Z", "2030-01-01T00:00:00.097Z"),
        ("2029-12-31T23:59:59.9999Z", "2030-01-01T00:00:00.000Z"),
    ],
)
def test_start_at_is_rounded_to_the_later_millisecond(asked: str, kept: str) -> None:
    """A part of a millisecond counts as a whole one, so that nothing starts too early."""
    assert JobSpec(command="true", start_at=asked).start_at == kept


async def test_another_attempt_keeps_the_first_one(tmp_path: Path) -> None:
    """An attempt that is repeated is kept with its end and output, and the job runs again with its secrets."""
    spec = JobSpec(command="x", env={"A": "secret"}, retries=Retries(max=1, delay=0))
    async with opened(tmp_path) as store:
        job = await store.add(spec)
        await store.claim(1, "a")
        first = ended(3, completed=time.time_ns() // 1_000_000)
        wrote = Volume(stdout_bytes=3)
        due = first.completed + 300
        assert await store.finish(job.id, "a", first, wrote, Head(b"abc"), next_attempt_at=due)
        seen = await store.job(job.id)
        assert (seen.state, seen.attempt) == (State.WAITING, 2)
        kept = await store.attempt(job.id, 1)
        assert replace(kept, host=None) == Done(first, wrote)
        claim = await asyncio.wait_for(store.claim(2, "b"), 10)
        assert (claim.attempt, claim.spec) == (2, spec)
        assert not await store.finish(job.id, "a", ended(4), wrote, Head(b"abc")), "the first attempt's token is over"
        assert await store.finish(job.id, "b", ended(4), *NOTHING)
        assert await store.attempt(job.id, 2) == (await store.job(job.id)).phase
        with pytest.raises(NoSuchAttempt):
            await store.attempt(job.id, 3)


async def test_a_cancelled_job_gets_no_further_attempt(tmp_path: Path) -> None:
    """A job whose cancellation was requested while it ran gets no further attempt, however the first one ended."""
    async with opened(tmp_path) as store:
        claim = await running(store, "a")
        await store.request_cancel(claim.job_id)
        assert await store.finish(claim.job_id, "a", ended(3), *NOTHING, next_attempt_at=1)
        assert await state(store, claim.job_id) is State.DONE


async def test_a_queue_runs_no_more_than_its_limit(tmp_path: Path) -> None:
    """Of a queue for one, one job runs at a time while another queue's run; its end lets the next start."""
    limits = QueueLimits(None, {"default": QueueLimit(), "one": QueueLimit(1)})
    async with opened(tmp_path, limits) as store:
        keepers = [asyncio.create_task(store.claim(n, f"t{n}")) for n in range(5)]
        slow = [await store.add(JobSpec(command="true", queue="one")) for _ in range(3)]
        other = [await store.add(SPEC) for _ in range(2)]
        done, waiting = await asyncio.wait(keepers, timeout=0.1)
        claims = {task.result().job_id: task.result() for task in done}
        assert claims.keys() == {slow[0].id, *(job.id for job in other)}
        await store.finish(slow[0].id, claims[slow[0].id].token, ended(), *NOTHING)
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        assert [task.result().job_id for task in done] == [slow[1].id]
        for task in waiting:
            task.cancel()


async def test_a_paused_queue_starts_nothing_and_resuming_starts_it(tmp_path: Path) -> None:
    """A job in a paused queue is not claimed, not even by a waiting keeper, until the queue is resumed."""
    async with opened(tmp_path) as store:
        await store.pause("default", paused=True)
        keeper = asyncio.create_task(store.claim(1, "a"))
        job = await store.add(SPEC)
        assert isinstance(job.phase, Queued)
        queue = (await store.queues()).queues[0]
        assert (queue.paused, queue.queued, queue.oldest) == (True, 1, job.created)
        await store.pause("default", paused=False)
        assert (await asyncio.wait_for(keeper, 5)).job_id == job.id
        with pytest.raises(NoSuchQueue):
            await store.pause("nobody", paused=True)


async def test_one_queue_can_be_resumed_after_all_were_paused(tmp_path: Path) -> None:
    """After all queues were paused, one can be resumed alone; while all are, a new queue is paused too."""
    two = QueueLimits(None, {"default": QueueLimit(), "two": QueueLimit()})
    async with opened(tmp_path) as store:
        await store.pause(None, paused=True)
    async with opened(tmp_path, two) as store:
        queues = await store.queues()
        assert queues.paused
        assert [queue.paused for queue in queues.queues] == [True, True]
        queues = await store.pause("two", paused=False)
        assert not queues.paused
        assert {queue.name: queue.paused for queue in queues.queues} == {"default": True, "two": False}


async def test_too_many_in_one_batch_are_refused_to_the_number(tmp_path: Path) -> None:
    """Of 50 added at once where 10 may wait, 10 are accepted beside those that waiting keepers take."""
    async with opened(tmp_path, QueueLimits(10)) as store:
        keepers = [asyncio.create_task(store.claim(n, f"t{n}")) for n in range(3)]
        await store.check()
        outcomes = await asyncio.gather(*(store.add(SPEC) for _ in range(50)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
        assert len(refused) == 50 - 10 - 3
        accepted = [outcome.id for outcome in outcomes if isinstance(outcome, Job)]
        assert {(await keeper).job_id for keeper in keepers} == set(accepted[:3])
        assert (await store.queues()).queues[0].queued == 10
        with pytest.raises(QueueFull, match="10 jobs"):
            await store.add(SPEC)


async def test_only_accepted_jobs_take_a_place_in_the_queue(tmp_path: Path) -> None:
    """Repeats of a key and refused jobs take no place from the jobs in the same batch."""
    key = IdempotencyKey("who", "k", b"digest")
    async with opened(tmp_path, QueueLimits(3)) as store:
        known = await store.add(SPEC, key)
        outcomes = await asyncio.gather(
            *(store.add(SPEC, key) for _ in range(5)),
            *(store.add(after(99)) for _ in range(5)),
            *(store.add(SPEC) for _ in range(4)),
            return_exceptions=True,
        )
        assert [outcome.id for outcome in outcomes[:5] if isinstance(outcome, Job)] == [known.id] * 5
        assert [type(outcome) for outcome in outcomes[5:]] == [InvalidJob] * 5 + [Job] * 2 + [QueueFull] * 2


@pytest.mark.sqlite
async def test_a_batch_that_is_run_again_takes_its_places_once(tmp_path: Path) -> None:
    """If a unit of the batch fails in SQLite, its other units run again, and the queue still fills exactly."""
    async with opened(tmp_path, QueueLimits(3)) as store:
        broken = store._engine.write(lambda db: db.execute("SELECT nonsense"))  # the last of the batch
        outcomes = await asyncio.gather(*(store.add(SPEC) for _ in range(5)), broken, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes[:5]] == [Job] * 3 + [QueueFull] * 2
        assert isinstance(outcomes[5], StoreUnavailable)


async def test_a_queue_that_is_no_longer_configured_still_runs(tmp_path: Path) -> None:
    """A job in a queue that is no longer configured is claimed, and the queue is listed until it is done."""
    async with opened(tmp_path, QueueLimits(None, {"old": QueueLimit(1)})) as store:
        await store.add(JobSpec(command="true", queue="old"))
    async with opened(tmp_path) as store:
        assert {queue.name for queue in (await store.queues()).queues} == {"default", "old"}
        assert (await store.claim(1, "a")).spec.queue == "old"


async def test_a_callback_becomes_due_with_the_end(tmp_path: Path) -> None:
    """A callback is pending and not due before the end, due with it, and then delivered, retried, or failed."""
    spec = JobSpec(command="true", notify=Notify(url="http://localhost/x"))
    async with opened(tmp_path) as store:
        job = await store.add(spec)
        assert job.callback is not None
        assert job.callback.state is Delivery.PENDING
        assert await store.due_callbacks(10) == []
        with store.watch_callbacks() as subscription:
            await store.request_cancel(job.id)
            await asyncio.wait_for(subscription.wait(), 5)
        assert [due.job.id for due in await store.due_callbacks(10)] == [job.id]
        await store.record_callback_try(job.id, error="no answer", retry_at=99_000_000_000_000)
        assert await store.due_callbacks(10) == []
        assert abs((await store.next_callback_at() or 0) - 99_000_000_000_000) < 1000  # by another clock
    async with opened(tmp_path) as store:
        callback = (await store.job(job.id)).callback
        assert callback is not None
        assert (callback.state, callback.tries, callback.error) == (Delivery.PENDING, 1, "no answer")
        await store.record_callback_try(job.id, error="gave up", retry_at=None)
        callback = (await store.job(job.id)).callback
        assert callback is not None
        assert callback.state is Delivery.FAILED
        await store.delete_job(job.id)
        assert await store.next_callback_at() is None


@pytest.mark.heavy
async def test_the_change_log_has_each_job_once_in_order(tmp_path: Path) -> None:
    """Each transition and each deletion has a number; since a number, each job has its latest."""
    async with opened(tmp_path) as store:
        before = store.changes.head
        first, second = await store.add(SPEC), await store.add(SPEC)
        await store.claim(1, "a")
        assert [job for _, job in store.changes.since(before, 10) or ()] == [second.id, first.id]
        now = store.changes.head
        assert list(store.changes.since(now, 10) or ()) == []
        with store.watch_changes() as subscription:
            await store.finish(first.id, "a", ended(), *NOTHING)
            await asyncio.wait_for(subscription.wait(), 5)
        await store.delete_job(first.id)
        assert [job for _, job in store.changes.since(now, 10) or ()] == [first.id]
        assert store.changes.since(now + 100, 10) is None


@pytest.mark.sqlite
async def test_everything_of_a_job_goes_with_it(tmp_path: Path) -> None:
    """Labels, attempts, callback and search index of a deleted job leave no row behind."""
    spec = JobSpec(
        command="найти меня", labels={"a": "b"}, notify=Notify(url="http://x/"), retries=Retries(max=1, delay=0)
    )
    async with opened(tmp_path) as store:
        job = await store.add(spec)
        await store.claim(1, "a")
        await store.finish(job.id, "a", ended(1), *NOTHING, next_attempt_at=1)
        assert isinstance((await store.job(job.id)).phase, Queued | Running)
        await store.claim(1, "b")
        await store.finish(job.id, "b", ended(1), Volume(1), Head(b"x"))

        async def count(sql: str) -> int:
            found: int = await store._engine.read(lambda db: db.execute(sql).fetchone()[0])
            return found

        await until(lambda: count(INDEXED))
        await store.delete_job(job.id)
        assert await count(INDEXED) == 0
        for table in ("jobs", "attempts", "outputs", "labels", "dependencies", "callbacks"):
            assert await count(f"SELECT count(*) FROM {table}") == 0, table


@pytest.mark.heavy
@pytest.mark.sqlite
async def test_skipping_costs_little_however_many_jobs_were_waited_for(tmp_path: Path) -> None:
    """An end that skips a hundred jobs changes a few rows of each; the others are deleted as other jobs end."""
    async with opened(tmp_path) as store:
        first, *others = [(await running(store, f"t{number}")).job_id for number in range(50)]
        spec = after(first, *others)
        waiting = await asyncio.gather(*(store.add(spec) for _ in range(100)))
        before = await store._engine.write(_changes)
        await store.finish(first, "t0", ended(1), *NOTHING)
        changed = await store._engine.write(_changes) - before
        assert {await state(store, job.id) for job in waiting} == {State.DONE}
        assert changed < 5 * len(waiting)
        for number, job_id in enumerate(others, 1):
            await store.finish(job_id, f"t{number}", ended(), *NOTHING)
        assert {await state(store, job.id) for job in waiting} == {State.DONE}
        left = await store._engine.read(lambda db: db.execute("SELECT count(*) FROM dependencies").fetchone()[0])
        assert left == 0


@pytest.mark.sqlite
async def test_s7_the_consequences_of_an_end_reach_a_damaged_row(tmp_path: Path) -> None:
    """S7: a job whose row cannot be read, and that waited for a failed one, is skipped like the others."""
    async with opened(tmp_path) as store:
        first = await running(store, "a")
        damaged, whole = await store.add(after(first.job_id)), await store.add(after(first.job_id))
        await store._engine.write(lambda db: db.execute("UPDATE jobs SET spec = 'x' WHERE id = ?", (damaged.id,)))
        assert await store.finish(first.job_id, "a", ended(1), *NOTHING)
        assert await state(store, whole.id) is State.DONE
        await store.delete_job(damaged.id)


def _changes(db: Any) -> int:
    return int(db.total_changes)
