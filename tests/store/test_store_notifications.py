"""Notifications: subscribe, read, wait, and no change is missed; new output is noticed within 50 ms."""

import asyncio
import time
from pathlib import Path

import pytest

from shellrunner.store import Subscription
from tests.support.histories import NOTHING, SPEC, done, ended, opened, running
from tests.support.simulated_keeper import SimulatedKeeper


async def notified(subscription: Subscription) -> None:
    await asyncio.wait_for(subscription.wait(), 5)


async def silent(subscription: Subscription) -> bool:
    try:
        await asyncio.wait_for(subscription.wait(), 0.15)
    except TimeoutError:
        return True
    return False


async def test_every_change_of_a_job_notifies_its_subscribers(tmp_path: Path) -> None:
    """Each claim, requeue, request to cancel, end and deletion notifies those who watch the job, and no others."""
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
                await notified(one)
                await notified(two)
            await notified(not_mine)  # the first poll of a running job notifies, by design
            assert await silent(not_mine)


async def test_a_notification_before_the_wait_is_kept_and_several_merge(tmp_path: Path) -> None:
    """All changes between the subscription and the wait are one notification."""
    async with opened(tmp_path) as store:
        job = await store.add(SPEC)
        with store.watch(job.id) as subscription:
            await store.claim(1, "a")
            await store.finish(job.id, "a", ended(), *NOTHING)
            await notified(subscription)
            assert await silent(subscription)


async def test_a_request_to_cancel_a_running_job_notifies_the_supervisor(tmp_path: Path) -> None:
    """Cancelling a running job notifies; cancelling a queued job, which ends it at once, does not."""
    async with opened(tmp_path) as store:
        with store.watch_cancel_requests() as subscription:
            queued = await store.add(SPEC)
            await store.request_cancel(queued.id)
            assert await silent(subscription)
            claim = await running(store)
            await store.request_cancel(claim.job_id)
            await notified(subscription)


async def test_new_output_notifies_every_subscriber_soon(tmp_path: Path) -> None:
    """A byte written to the slot notifies every subscriber, in the median within 60 ms; without new bytes, none."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper, store.watch(claim.job_id) as one, store.watch(claim.job_id) as two:
            recorder = keeper.begin(claim.job_id, "t")
            await notified(one)
            delays = []
            for number in range(9):
                recorder.store(number % 2, b"x")
                began = time.perf_counter()
                while (await store.output(claim.job_id)).volume.stored <= number:
                    await notified(one)
                await notified(one)
                delays.append(time.perf_counter() - began)
                await notified(two)
            assert sorted(delays)[4] < 0.06
            assert await silent(one) or await silent(one)


@pytest.mark.parametrize("late", [False, True])
async def test_output_before_the_first_poll_notifies(tmp_path: Path, late: bool) -> None:
    """Bytes written right after a subscriber's read notify it, whether or not there was a subscriber before."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, "t")
            if late:
                with store.watch(claim.job_id) as earlier:
                    await notified(earlier)
            with store.watch(claim.job_id) as subscription:
                assert (await store.output(claim.job_id)).volume.stored == 0
                recorder.store(0, b"x")
                await notified(subscription)


@pytest.mark.sqlite
async def test_nothing_is_left_of_a_subscription_that_ended(tmp_path: Path) -> None:
    """When the last subscription to a job ends, the store keeps nothing about it."""
    async with opened(tmp_path) as store:
        job = await done(store)
        for _ in range(3):
            with store.watch(job.id):
                pass
        assert not store._effects.notifications._subscriptions
        assert not store._effects.notifications._fingerprints
