"""Retention: the oldest that are too old, too many or too large leave, and nothing that is not done."""

import time
from pathlib import Path

from shellrunner.errors import NoSuchJob
from shellrunner.model import Job, Volume
from shellrunner.store import Head
from shellrunner.store.sqlite import SqliteStore
from tests.store.histories import SPEC, done, ended, listed, opened, running
from tests.waiting import until


async def ids(store: SqliteStore) -> list[int]:
    return [job.id for job in await listed(store)]


async def large(store: SqliteStore, size: int) -> None:
    claim = await running(store, f"large{size}")
    assert await store.finish(claim.job_id, claim.token, ended(), Volume(stdout_bytes=size), Head(b"x", b""))


async def test_the_number_is_kept_and_the_oldest_leave(tmp_path: Path) -> None:
    """With at most five, the last five that were done stay; queued and running ones are not counted nor removed."""
    async with opened(tmp_path, jobs=5) as store:
        first = await running(store, "runs on")
        for number in range(300):
            await done(store, f"t{number}", completed=1000 + number)
        waiting = await store.add(SPEC)
        expected = [waiting.id, *range(301, 296, -1), first.job_id]

        async def kept() -> bool:
            return await ids(store) == expected

        await until(kept)


async def test_the_order_is_by_completion(tmp_path: Path) -> None:
    """The job that was done first leaves first, also if it was accepted last."""
    async with opened(tmp_path, jobs=1) as store:
        young = await running(store, "a")
        old = await running(store, "b")
        await store.finish(old.job_id, "b", ended(completed=1000), Volume(), Head())
        await store.finish(young.job_id, "a", ended(completed=2000), Volume(), Head())

        async def kept() -> bool:
            return await ids(store) == [young.job_id]

        await until(kept)


async def test_bytes_are_kept_and_counted_again_at_the_next_opening(tmp_path: Path) -> None:
    """Above the limit of bytes the oldest leave until it is met; a smaller limit acts when the store is opened."""
    async with opened(tmp_path, bytes=1000) as store:
        for size in (400, 500, 300, 200):
            await large(store, size)

        async def kept() -> bool:
            return await ids(store) == [4, 3, 2]

        await until(kept)
    async with opened(tmp_path, bytes=450) as store:

        async def fewer() -> bool:
            return await ids(store) == [4]

        await until(fewer)
        assert (store._retainer.kept.jobs, store._retainer.kept.bytes) == (1, 200)


async def test_age(tmp_path: Path) -> None:
    """What was done longer ago than the days allow leaves, what was done since stays."""
    now = int(time.time() * 1000)
    async with opened(tmp_path) as store:
        old: Job = await done(store, "old", completed=now - 2 * 86_400_000)
        new: Job = await done(store, "new", completed=now - 86_400_000 // 2)
    async with opened(tmp_path, days=1) as store:

        async def kept() -> bool:
            return await ids(store) == [new.id]

        await until(kept)
        try:
            await store.job(old.id)
        except NoSuchJob:
            pass
        else:
            raise AssertionError("it is still there")


async def test_without_limits_everything_stays(tmp_path: Path) -> None:
    """No limit, nothing removed; and what is deleted by hand leaves the count."""
    async with opened(tmp_path) as store:
        for number in range(20):
            await done(store, f"t{number}", completed=0)
        await store.delete_job(3)
        await store.delete_result(4)
        assert await store._retire(100) == 0
        assert store._retainer.kept.jobs == 19
