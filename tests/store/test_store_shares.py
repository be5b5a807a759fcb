"""Shares of submitters: how many of their jobs run and wait, and that those beyond hold up nobody else's."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from shellrunner.errors import QueueFull, TooManyQueuedJobs
from shellrunner.model import Claim, JobSpec, Queued, Running, Submitter, Waiting
from shellrunner.model.spec import Retries
from shellrunner.store import QueueLimit, QueueLimits, SubmitterLimit
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import NOTHING, SPEC, ended, opened

CI, OTHER = Submitter("token:ci"), Submitter("token:other")
ONE_RUNS = QueueLimits(submitters={"token:ci": SubmitterLimit(max_running=1)})
TWO_WAIT = QueueLimits(submitters={"token:ci": SubmitterLimit(max_queued=2)})


def claiming(store: SqliteStore, number: int) -> list[asyncio.Task[Claim]]:
    return [asyncio.create_task(store.claim(keeper, f"t{keeper}")) for keeper in range(1, number + 1)]


async def end(tasks: list[asyncio.Task[Claim]]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.heavy
async def test_a_submitter_never_runs_more_than_its_share(tmp_path: Path) -> None:
    """Of ten jobs added at once, with keepers for all, one runs; each end starts the next one."""
    async with opened(tmp_path, ONE_RUNS) as store:
        tasks = claiming(store, 5)
        await asyncio.sleep(0)
        await asyncio.gather(*(store.add(SPEC, by=CI) for _ in range(10)))
        for number in range(1, 4):
            done, _ = await asyncio.wait(tasks[number - 1 : number], timeout=5)
            assert done
            (held,) = await store.running()
            assert held.job_id == number
            await store.finish(held.job_id, held.token, ended(), *NOTHING)
        await end(tasks)


@pytest.mark.heavy
async def test_who_may_run_no_more_holds_up_nobody(tmp_path: Path) -> None:
    """Jobs of others start past a thousand that may not, whatever their priority and whichever queue they are in."""
    queues = QueueLimits(submitters=ONE_RUNS.submitters, queues={"default": QueueLimit(), "mail": QueueLimit(2)})
    async with opened(tmp_path, queues) as store:
        urgent = JobSpec(command="true", priority=9)
        await asyncio.gather(*(store.add(urgent, by=CI) for _ in range(1000)))
        late = [await store.add(SPEC, by=OTHER), await store.add(JobSpec(command="true", queue="mail"), by=CI)]
        claims = [await store.claim(number, f"t{number}") for number in (1, 2)]
        assert [claim.job_id for claim in claims] == [1, late[0].id]
        waiting = claiming(store, 1)
        await store.check()
        at_once = await store.add(SPEC)  # not even queued: a keeper waits, and nothing before it may start
        assert isinstance(at_once.phase, Running)
        assert (await waiting[0]).job_id == at_once.id
        assert isinstance((await store.job(late[1].id)).phase, Queued)
        await store.finish(1, "t1", ended(), *NOTHING)
        assert (await store.claim(4, "t4")).job_id == 2


@pytest.mark.heavy
async def test_a_share_holds_across_restarts_and_changes(tmp_path: Path) -> None:
    """What runs counts after a restart too; a larger share starts jobs at once, a smaller one ends none."""
    async with opened(tmp_path, ONE_RUNS) as store:
        for _ in range(4):
            await store.add(SPEC, by=CI)
        await store.claim(1, "t")
    async with opened(tmp_path, ONE_RUNS) as store:
        tasks = claiming(store, 3)
        await store.check()
        assert not any(task.done() for task in tasks)
        store.limit_submitters({"token:ci": SubmitterLimit(max_running=2)})
        assert (await tasks[0]).job_id == 2
        store.limit_submitters({"token:ci": SubmitterLimit(max_running=1)})
        await store.finish(1, "t", ended(), *NOTHING)
        await store.check()
        assert not tasks[1].done()
        store.limit_submitters({})
        assert {(await task).job_id for task in tasks[1:]} == {3, 4}


async def test_a_submitter_cannot_fill_the_queue(tmp_path: Path) -> None:
    """Of many added in one batch so many wait as its share allows, for a time or for jobs too; others may wait."""
    async with opened(tmp_path, TWO_WAIT) as store:
        results = await asyncio.gather(*(store.add(SPEC, by=CI) for _ in range(5)), return_exceptions=True)
        refused = [each for each in results if isinstance(each, TooManyQueuedJobs)]
        assert [each.members for each in refused] == [{"share": "max_queued", "limit": 2}] * 3
        assert isinstance((await store.add(SPEC, by=OTHER)).phase, Queued)
        claim = await store.claim(1, "t")
        later = await store.add(JobSpec(command="true", after=(claim.job_id,)), by=CI)
        assert isinstance(later.phase, Waiting)
        await store.claim(2, "u")
        timed = await store.add(JobSpec(command="true", start_at="2100-01-01T00:00:00.000Z"), by=CI)
        assert isinstance(timed.phase, Waiting)
        with pytest.raises(TooManyQueuedJobs):
            await store.add(SPEC, by=CI)
        await store.request_cancel(timed.id)
        await store.finish(claim.job_id, "t", ended(1), *NOTHING, next_attempt_at=4_000_000_000_000)
        with pytest.raises(TooManyQueuedJobs):  # the attempt that is to come waits, and so does its dependent
            await store.add(SPEC, by=CI)


async def test_what_starts_at_once_takes_no_place(tmp_path: Path) -> None:
    """A job for which a keeper waits is accepted although the share of the queue is used up, as with a full queue."""
    async with opened(tmp_path, TWO_WAIT) as store:
        for _ in range(2):
            await store.add(JobSpec(command="true", start_at="2100-01-01T00:00:00.000Z"), by=CI)
        tasks = claiming(store, 1)
        await store.check()
        assert isinstance((await store.add(SPEC, by=CI)).phase, Running)
        await tasks[0]


@pytest.mark.parametrize("limits", [TWO_WAIT, QueueLimits(2)], ids=["its share", "the queue of all"])
async def test_what_will_wait_between_its_attempts_takes_a_place(tmp_path: Path, limits: QueueLimits) -> None:
    """A job with retries needs a place although it starts at once: else jobs that fail would fill the queue."""
    retried = JobSpec(command="false", retries=Retries(max=1, delay=60.0))
    async with opened(tmp_path, limits) as store:
        tasks = claiming(store, 3)
        await store.check()
        for number, task in enumerate(tasks[:2], start=1):
            await store.add(retried, by=CI)
            assert (await task).job_id == number
            await store.finish(number, f"t{number}", ended(1), *NOTHING, next_attempt_at=4_000_000_000_000)
        with pytest.raises((TooManyQueuedJobs, QueueFull)):
            await store.add(retried, by=CI)
        assert isinstance((await store.add(SPEC, by=CI)).phase, Running)
        await tasks[2]


async def test_the_limits_of_all_hold_beside_a_share(tmp_path: Path) -> None:
    """A share promises nothing: where the service is full, it is full for those with a share too."""
    async with opened(tmp_path, QueueLimits(1, submitters=TWO_WAIT.submitters)) as store:
        await store.add(SPEC, by=CI)
        with pytest.raises(QueueFull):
            await store.add(SPEC, by=CI)


async def test_a_job_that_becomes_due_is_claimed_in_its_order(tmp_path: Path) -> None:
    """A requeued job of a line that was empty comes before one of less priority that is added in the same batch."""
    async with opened(tmp_path) as store:
        first = await store.add(JobSpec(command="true", priority=5), by=CI)
        await store.claim(1, "t")
        tasks = claiming(store, 1)
        await store.check()
        await asyncio.gather(store.requeue(first.id, "t"), store.add(SPEC, by=OTHER))
        assert (await tasks[0]).job_id == first.id
