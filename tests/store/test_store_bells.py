"""Bells: watch, look, wait, and no change is missed; growing output is heard within its 50 ms."""

import asyncio
import time
from pathlib import Path

import pytest

from shellrunner.store import Subscription
from tests.support.histories import NOTHING, SPEC, done, ended, opened, running
from tests.support.simulated_keeper import SimulatedKeeper


async def heard(bell: Subscription) -> None:
    await asyncio.wait_for(bell.wait(), 5)


async def silent(bell: Subscription) -> bool:
    try:
        await asyncio.wait_for(bell.wait(), 0.15)
    except TimeoutError:
        return True
    return False


async def test_every_change_of_a_jobs_state_rings(tmp_path: Path) -> None:
    """Claimed, requeued, wished, done, result deleted, deleted: each rings its watchers, and nobody else's."""
    async with opened(tmp_path) as store:
        other = await store.add(SPEC)
        await store.claim(9, "other")
        job = await store.add(SPEC)
        with store.watch(job.id) as one, store.watch(job.id) as two, store.watch(other.id) as not_mine:
            for change in (
                lambda: store.claim(1, "a"),
                lambda: store.requeue(job.id, "a"),
                lambda: store.claim(1, "b"),
                lambda: store.request_cancel(job.id),
                lambda: store.finish(job.id, "b", ended(), *NOTHING),
                lambda: store.delete_result(job.id),
                lambda: store.delete_job(job.id),
            ):
                await change()
                await heard(one)
                await heard(two)
            await heard(not_mine)  # the first look at a running job's size rings, by design
            assert await silent(not_mine)


async def test_a_ring_before_the_wait_is_kept_and_rings_merge(tmp_path: Path) -> None:
    """What happened between watching and waiting is heard once, however often it rang."""
    async with opened(tmp_path) as store:
        job = await store.add(SPEC)
        with store.watch(job.id) as bell:
            await store.claim(1, "a")
            await store.finish(job.id, "a", ended(), *NOTHING)
            await heard(bell)
            assert await silent(bell)


async def test_a_wish_at_a_running_job_rings_for_the_wishes(tmp_path: Path) -> None:
    """A cancel of a running job rings; one of a queued job, which is done with it, does not."""
    async with opened(tmp_path) as store:
        with store.watch_cancel_requests() as bell:
            queued = await store.add(SPEC)
            await store.request_cancel(queued.id)
            assert await silent(bell)
            claim = await running(store)
            await store.request_cancel(claim.job_id)
            await heard(bell)


async def test_new_output_is_heard_soon_by_all_who_follow(tmp_path: Path) -> None:
    """A byte written to the slot rings every watcher, in the median within 60 ms; without new bytes it is silent."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper, store.watch(claim.job_id) as one, store.watch(claim.job_id) as two:
            recorder = keeper.begin(claim.job_id, "t")
            await heard(one)
            delays = []
            for number in range(9):
                recorder.store(number % 2, b"x")
                began = time.perf_counter()
                while (await store.output(claim.job_id)).volume.stored <= number:
                    await heard(one)
                await heard(one)
                delays.append(time.perf_counter() - began)
                await heard(two)
            assert sorted(delays)[4] < 0.06
            assert await silent(one) or await silent(one)


@pytest.mark.parametrize("late", [False, True])
async def test_output_that_came_before_the_first_look_is_heard(tmp_path: Path, late: bool) -> None:
    """Bytes written right after a watcher looked ring, whether or not another had been watching before."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, "t")
            if late:
                with store.watch(claim.job_id) as earlier:
                    await heard(earlier)
            with store.watch(claim.job_id) as bell:
                assert (await store.output(claim.job_id)).volume.stored == 0
                recorder.store(0, b"x")
                await heard(bell)


@pytest.mark.sqlite
async def test_nobody_is_left_behind_after_watching(tmp_path: Path) -> None:
    """When the last watcher has gone, the store keeps nothing about the job."""
    async with opened(tmp_path) as store:
        job = await done(store)
        for _ in range(3):
            with store.watch(job.id):
                pass
        assert not store._effects.notifications._subscriptions
        assert not store._effects.notifications._fingerprints
