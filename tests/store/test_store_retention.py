"""Retention removes the oldest jobs that are too old, too many or too large, and none that is not done."""

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.errors import NoSuchJob, StoreUnavailable
from shellrunner.model import Job, JobSpec, Notify, Retries, Volume
from shellrunner.store import Head, HistorySize, Retention
from shellrunner.store.sqlite.effects.size_count import SizeCount
from shellrunner.store.sqlite.effects.trimmer import RetentionTrimmer
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import SPEC, done, ended, listed, opened, running
from tests.support.waiting import WAIT_TIMEOUT, until


async def ids(store: SqliteStore) -> list[int]:
    return [job.id for job in await listed(store)]


async def large(store: SqliteStore, size: int) -> None:
    claim = await running(store, f"large{size}")
    assert await store.finish(claim.job_id, claim.token, ended(), Volume(stdout_bytes=size), Head(b"x", b""))


@pytest.mark.heavy
async def test_the_oldest_jobs_above_the_number_are_removed(tmp_path: Path) -> None:
    """With a limit of five, the last five that ended stay; queued and running ones do not count."""
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
    """The job that ended first is removed first, also if it was accepted last."""
    async with opened(tmp_path, jobs=1) as store:
        young = await running(store, "a")
        old = await running(store, "b")
        await store.finish(old.job_id, "b", ended(completed=1000), Volume(), Head())
        await store.finish(young.job_id, "a", ended(completed=2000), Volume(), Head())

        async def kept() -> bool:
            return await ids(store) == [young.job_id]

        await until(kept)


async def test_bytes_are_limited_also_after_a_restart(tmp_path: Path) -> None:
    """Above the limit of bytes the oldest are removed until it is met, also when the store is opened."""
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
        assert await store.size() == HistorySize(1, 200)


async def test_jobs_that_are_too_old_are_removed(tmp_path: Path) -> None:
    """A job that ended longer ago than the limit of days is removed, one that ended since stays."""
    now = int(time.time() * 1000)
    async with opened(tmp_path) as store:
        old: Job = await done(store, "old", completed=now - 2 * 86_400_000)
        new: Job = await done(store, "new", completed=now - 86_400_000 // 2)
        # On a cluster no job is older than its acceptance, as the clock of a host may be far behind.
        accepted = "UPDATE jobs SET created = created - 172800000 WHERE id = ?"
        await store._engine.write(lambda db: db.execute(accepted, (old.id,)).rowcount)
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


@pytest.mark.sqlite
async def test_without_limits_everything_stays(tmp_path: Path) -> None:
    """Without limits nothing is removed, and what is deleted on request is no longer counted."""
    async with opened(tmp_path) as store:
        for number in range(20):
            await done(store, f"t{number}", completed=0)
        await store.delete_job(3)
        await store.delete_result(4)
        trimmed = await store._engine.read(lambda db: store._effects.trimmer.trim(db, 100, now_ms()))
        assert trimmed.transitions == []
        assert (await store.size()).jobs == 19


async def test_attempts_count_once_over_a_restart(tmp_path: Path) -> None:
    """Output of an earlier attempt counts once the job is done, also if the store was reopened between."""
    async with opened(tmp_path) as store:
        job = await store.add(JobSpec(command="false", retries=Retries(max=1)))
        await store.claim(1, "t")
        await store.finish(job.id, "t", ended(1), Volume(100), Head(b"x" * 100, b""), next_attempt_at=10**17)
    async with opened(tmp_path) as store:
        assert await store.size() == HistorySize(0, 0)
        await store.request_cancel(job.id)
        assert await store.size() == HistorySize(1, 100)
        await store.delete_job(job.id)
        assert await store.size() == HistorySize(0, 0)


async def test_what_ends_after_the_clock_was_set_back_stays(tmp_path: Path) -> None:
    """Jobs that seem to have ended in the future are removed before those that end now; the age still counts."""
    now = int(time.time() * 1000)
    hour = 3_600_000
    async with opened(tmp_path) as store:
        future = [(await done(store, f"f{number}", completed=now + hour + number)).id for number in range(5)]
        old = await done(store, "old", completed=now - 48 * hour)
        new = [(await done(store, f"n{number}", completed=now + number)).id for number in range(3)]
    async with opened(tmp_path, days=1, jobs=4) as store:

        async def kept() -> bool:
            return await ids(store) == [*reversed(new), future[-1]]

        await until(kept)
        assert old.id not in await ids(store)


@pytest.mark.sqlite
@pytest.mark.parametrize("spec", ["x", "3", '{"labels": 3}'])
async def test_s7_a_damaged_row_is_removed_like_any_other(tmp_path: Path, spec: str) -> None:
    """S7: retention removes a job whose row cannot be read, with its labels and callback, and goes on."""
    async with opened(tmp_path) as store:
        await store.add(JobSpec(command="true", labels={"a": "b"}, notify=Notify(url="http://x/")))
        await store.claim(1, "t")
        await store.finish(1, "t", ended(), Volume(), Head())
        await store._engine.write(lambda db: db.execute("UPDATE jobs SET spec = ?", (spec,)))
        last = await done(store, "u", completed=3_000)
        assert [job.spec.command_line for job in await listed(store)] == ["true", "(unreadable)"], "it hides no other"
        assert [job.callback for job in await listed(store)] == [None, None], "what cannot be read has none to show"
    async with opened(tmp_path, jobs=1) as store:

        async def kept() -> bool:  # a commit is read before its consequences are known
            return await ids(store) == [last.id] and (await store.size()).jobs == 1

        def left(db: Any) -> int:
            query = "SELECT (SELECT count(*) FROM labels) + (SELECT count(*) FROM callbacks)"
            return int(db.execute(query).fetchone()[0])

        await until(kept)
        assert await store._engine.read(left) == 0


async def test_s8_a_history_that_cannot_be_written_is_retried_rarely() -> None:
    """S8: while nothing can be removed, it is tried once per interval, even above the limits."""
    tries = 0

    async def remove(_: int) -> int:
        nonlocal tries
        tries += 1
        raise StoreUnavailable("the disk is full")

    trimmer = RetentionTrimmer(Retention(jobs=1))
    trimmer.counted(HistorySize(1, 0))
    trimmer.added(0)
    work = asyncio.create_task(trimmer.run(remove))
    for _ in range(100):
        await asyncio.sleep(0)
    work.cancel()
    assert tries == 1


@pytest.mark.sqlite
async def test_the_count_ends_before_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is cancelled: to close a connection that another thread uses crashes the process."""
    begun, go_on = threading.Event(), threading.Event()
    ended_with: list[str] = []

    def measure(db: sqlite3.Connection) -> HistorySize:
        begun.set()
        go_on.wait(WAIT_TIMEOUT)
        ended_with.extend(db.execute("SELECT 'open'").fetchone())
        return HistorySize(0, 0)

    monkeypatch.setattr("shellrunner.store.units.trimming.measure", measure)
    db = sqlite3.connect(":memory:", check_same_thread=False)
    task = asyncio.create_task(SizeCount(db).run(lambda _: None))
    await until(begun.is_set)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)  # it runs
    assert not task.done()
    go_on.set()
    await asyncio.wait([task], timeout=WAIT_TIMEOUT)
    assert task.cancelled()
    assert ended_with == ["open"]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        db.execute("SELECT 1")
