"""Claims: in order, once, and none is lost when a caller stops waiting."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shellrunner.model import Done, Ending, JobSpec, Queued, Running
from tests.support.histories import NOTHING, SPEC, ended, opened, running


async def test_priority_first_then_age(tmp_path: Path) -> None:
    """Claims come with the highest priority first, equal ones oldest first."""
    async with opened(tmp_path) as store:
        for priority in (0, 5, -5, 5, 0):
            await store.add(JobSpec(command="true", priority=priority))
        order = [(await store.claim(1, f"t{n}")).job_id for n in range(5)]
        assert order == [2, 4, 1, 5, 3]


async def test_each_job_is_claimed_once_by_many_waiting(tmp_path: Path) -> None:
    """Of 50 keepers waiting for 30 jobs, 30 get one each, all different."""
    async with opened(tmp_path) as store:
        waiting = [asyncio.create_task(store.claim(n, f"t{n}")) for n in range(50)]
        await asyncio.gather(*(store.add(SPEC) for _ in range(30)))
        await store.check()
        finished, pending = await asyncio.wait(waiting, timeout=0.05)
        assert sorted(task.result().job_id for task in finished) == list(range(1, 31))
        assert len(pending) == 20
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


@pytest.mark.sqlite
async def test_a_claim_brings_the_secrets_and_the_history_hides_them(tmp_path: Path) -> None:
    """env values and stdin reach the claim whole, are never in a Job, and gone from the row at the end."""
    spec = JobSpec(command="cat", env={"КЛЮЧ": "тайна-7c1"}, stdin="вход-7c1\0")
    async with opened(tmp_path) as store:
        job = await store.add(spec)
        assert job.spec == spec.redacted()
        claim = await store.claim(1, "t")
        assert claim.spec == spec
        assert (await store.job(job.id)).spec == spec.redacted()
        assert [held.spec for held in await store.running()] == [spec.redacted()]
        await store.finish(job.id, "t", ended(), *NOTHING)
        assert (await store._engine.read(lambda db: db.execute("SELECT secrets FROM jobs").fetchall())) == [(None,)]


@pytest.mark.heavy
async def test_a_request_removed_before_the_commit_claims_nothing(tmp_path: Path) -> None:
    """A keeper that stopped waiting before a job was added does not claim it."""
    async with opened(tmp_path) as store:
        waiting = asyncio.create_task(store.claim(1, "gone"))
        await store.check()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await store.add(SPEC)
        assert (await store.claim(2, "here")).token == "here"


@pytest.mark.heavy
@pytest.mark.parametrize("turns", range(12))
async def test_a_claim_cancelled_at_any_moment_loses_no_job(tmp_path: Path, turns: int) -> None:
    """However late the caller is cancelled, the next claim gets the job, or the cancelled one had it."""
    async with opened(tmp_path) as store:
        waiting = asyncio.create_task(store.claim(1, "first"))
        await asyncio.sleep(0)
        adding = asyncio.create_task(store.add(SPEC))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        waiting.cancel()
        had = not isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)
        await adding
        if not had:
            claim = await asyncio.wait_for(store.claim(2, "second"), 5)
            assert (claim.job_id, claim.token) == (1, "second")


@pytest.mark.sqlite
async def test_no_job_waits_for_a_later_write(tmp_path: Path) -> None:
    """A claim request is served without any other write if jobs are queued already."""
    async with opened(tmp_path) as store:
        for _ in range(3):
            await store.add(SPEC)
        for number in range(3):
            await asyncio.wait_for(store.claim(1, f"t{number}"), 5)
        late = asyncio.create_task(store.claim(1, "late"))
        await store.add(SPEC)
        await asyncio.wait_for(late, 5)
    async with opened(tmp_path) as store:
        await store.requeue(1, "t0")
        assert (await asyncio.wait_for(store.claim(1, "again"), 5)).job_id == 1


async def test_a_write_with_another_token_changes_nothing(tmp_path: Path) -> None:
    """finish and requeue with a token that does not hold the job return false and leave it running."""
    async with opened(tmp_path) as store:
        claim = await running(store, "right")
        assert not await store.finish(claim.job_id, "wrong", ended(), *NOTHING)
        assert not await store.requeue(claim.job_id, "wrong")
        assert isinstance((await store.job(claim.job_id)).phase, Running)
        assert await store.finish(claim.job_id, "right", ended(7), *NOTHING)
        assert not await store.finish(claim.job_id, "right", ended(8), *NOTHING)
        phase = (await store.job(claim.job_id)).phase
        assert isinstance(phase, Done)
        assert phase.end == ended(7)


@pytest.mark.heavy
async def test_a_requeued_job_whose_cancellation_was_requested_is_cancelled(tmp_path: Path) -> None:
    """requeue queues a job again, but ends it without a start if its cancellation was requested."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        assert await store.requeue(claim.job_id, "t")
        assert (await store.job(claim.job_id)).phase == Queued("default")
        await store.claim(1, "u")
        await store.request_cancel(claim.job_id)
        assert [held.token for held in await store.cancelling()] == ["u"]
        assert await store.requeue(claim.job_id, "u")
        phase = (await store.job(claim.job_id)).phase
        assert isinstance(phase, Done)
        assert (phase.end.ending, phase.end.started) == (Ending.CANCELLED, None)


@pytest.mark.sqlite
async def test_s7_a_damaged_row_does_not_hold_up_the_queue(tmp_path: Path) -> None:
    """S7: a queued job whose row cannot be read ends as failed_to_start, and the next one is claimed."""
    async with opened(tmp_path) as store:
        await store.add(JobSpec(command="true", priority=9))
        await store.add(SPEC)

        def damage(db: Any) -> None:
            db.execute("UPDATE jobs SET spec = '{\"comm' WHERE id = 1")

        await store._engine.write(damage)
        assert (await asyncio.wait_for(store.claim(1, "t"), 5)).job_id == 2
        row = await store._engine.read(lambda db: db.execute("SELECT ending FROM jobs WHERE id = 1").fetchone())
        assert row == ("failed_to_start",)
