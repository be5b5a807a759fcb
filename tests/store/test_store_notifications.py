"""Notifications: subscribe, read, wait, and no change is missed; new output is noticed at once, without polling."""

import asyncio
import errno
from contextlib import ExitStack
from pathlib import Path

import pytest

from shellrunner.keeper.slot import SlotReader
from shellrunner.store import Subscription, notifications
from shellrunner.store.output.local import LocalStorage
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.output.slot_events import SlotEvents
from tests.support.histories import NOTHING, SPEC, done, ended, opened, running
from tests.support.simulated_keeper import SimulatedKeeper
from tests.support.waiting import until


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


@pytest.fixture(params=["reported", "polled"])
def growth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How new output is noticed: only as the kernel reports it, or only by polling, where that is not possible."""
    if request.param == "reported":
        monkeypatch.setattr(notifications, "_POLL_INTERVAL", 3600.0)
    else:
        monkeypatch.setattr(SlotEvents, "watch_once", lambda *_: False)
    return str(request.param)


@pytest.mark.usefixtures("growth")
async def test_new_output_notifies_every_subscriber(tmp_path: Path) -> None:
    """A byte written to the slot notifies every subscriber; without new bytes, none."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper, ExitStack() as stack:
            one, two = (stack.enter_context(store.watch_output(claim.job_id)) for _ in range(2))
            recorder = keeper.begin(claim.job_id, "t")
            await notified(one)
            for number in range(9):
                waiting = asyncio.create_task(notified(two))
                await asyncio.sleep(0)  # in some rounds it waits before the byte is written
                recorder.store(number % 2, b"x")
                while (await store.output(claim.job_id)).volume.stored <= number:
                    await notified(one)
                await waiting
                await notified(one)
            assert await silent(one) or await silent(one)


@pytest.mark.usefixtures("growth")
@pytest.mark.parametrize("late", [False, True])
async def test_output_before_the_first_wait_notifies(tmp_path: Path, late: bool) -> None:
    """Bytes written right after a subscriber's read notify it, whether or not there was a subscriber before."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            recorder = keeper.begin(claim.job_id, "t")
            if late:
                with store.watch_output(claim.job_id) as earlier:
                    await notified(earlier)
            with store.watch_output(claim.job_id) as subscription:
                assert (await store.output(claim.job_id)).volume.stored == 0
                recorder.store(0, b"x")
                await notified(subscription)


async def test_output_written_while_the_slot_could_not_be_read_notifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without descriptors, or on a disk that fails, a write is not seen; once it can be, no further one need come."""
    read, tries = SlotReader.fingerprint, 0

    def unreadable(_: SlotReader) -> bytes:
        nonlocal tries
        tries += 1
        raise OSError(errno.EIO, "Input/output error")

    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper, store.watch_output(claim.job_id) as subscription:
            recorder = keeper.begin(claim.job_id, "t")
            while not await silent(subscription):
                pass
            waiting = asyncio.create_task(subscription.wait())
            monkeypatch.setattr(SlotReader, "fingerprint", unreadable)
            recorder.store(0, b"x")
            await waiting  # for it is not known whether there is more
            waiting = asyncio.create_task(subscription.wait())
            seen = tries
            await until(lambda: tries > seen + 1)
            monkeypatch.setattr(SlotReader, "fingerprint", read)
            await asyncio.wait_for(waiting, 5)


@pytest.mark.usefixtures("growth")
async def test_output_of_the_next_attempt_notifies(tmp_path: Path) -> None:
    """After a job went on to another keeper, what is written to that one's slot notifies."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as first, store.watch_output(claim.job_id) as subscription:
            first.begin(claim.job_id, "t")
            await notified(subscription)
            assert await silent(subscription)
            await store.requeue(claim.job_id, "t")
            await notified(subscription)
            await store.claim(2, "u")
            with SimulatedKeeper(tmp_path, 2) as second:
                recorder = second.begin(claim.job_id, "u")
                while not await silent(subscription):
                    pass
                recorder.store(0, b"x")
                await notified(subscription)


@pytest.mark.sqlite
async def test_output_is_looked_at_only_for_a_subscriber_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a command writes, while its readers are busy nothing wakes the service; nor for a plain watch."""
    async with opened(tmp_path) as store:
        claim, looks, reads = await running(store), 0, 0
        fingerprint, read = LocalStorage.fingerprint, SlotEvents._read

        def counted_fingerprint(storage: LocalStorage, owner: SlotOwner) -> bytes:
            nonlocal looks
            looks += 1
            return fingerprint(storage, owner)

        def counted_read(events: SlotEvents) -> None:
            nonlocal reads
            reads += 1
            read(events)

        monkeypatch.setattr(LocalStorage, "fingerprint", counted_fingerprint)
        monkeypatch.setattr(SlotEvents, "_read", counted_read)
        with (
            SimulatedKeeper(tmp_path) as keeper,
            store.watch_output(claim.job_id) as busy,
            store.watch(claim.job_id) as plain,
        ):
            recorder = keeper.begin(claim.job_id, "t")
            await notified(busy)
            await notified(plain)
            for after_a_wait in (False, True):
                if after_a_wait:
                    await notified(busy)
                    waiting = asyncio.create_task(notified(busy))
                    await until(lambda: store._effects.notifications._watched)
                    recorder.store(0, b"x")
                    await waiting
                before = looks, reads
                for _ in range(50):
                    recorder.store(0, b"x")
                    await asyncio.sleep(0.001)
                assert (looks, reads) == before
            assert 1 <= reads <= 3  # the one that woke the wait, and what was written in parts


@pytest.mark.sqlite
async def test_nothing_is_left_of_a_subscription_that_ended(tmp_path: Path) -> None:
    """When the last subscription to a job ends, the store keeps nothing about it."""
    async with opened(tmp_path) as store:
        job = await done(store)
        for _ in range(3):
            with store.watch_output(job.id):
                pass
        assert not store._effects.notifications._topics
        assert not store._effects.notifications._fingerprints
