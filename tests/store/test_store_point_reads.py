"""Reads by primary key on the event loop's own connection: which are, what they see, and what they never do."""

import sqlite3
from pathlib import Path
from typing import Any, cast

import pytest

from shellrunner.errors import NoSuchJob
from shellrunner.model import JobSpec, State
from shellrunner.store.sqlite.point_reads import MAX_AGE, MAX_JOBS, PointReads
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import ended, opened, running
from tests.support.simulated_keeper import SimulatedKeeper

pytestmark = pytest.mark.sqlite

SPEC = JobSpec(command="true")


async def traced(store: SqliteStore) -> tuple[list[str], list[str]]:
    """Return the statements that the loop's thread and the reading threads execute from now on."""
    on_loop: list[str] = []
    on_threads: list[str] = []
    for reader in store._engine.reads:
        await reader.run_unit(lambda db: cast("Any", db).set_trace_callback(on_threads.append))
    store._engine.read_at_once(lambda db: cast("Any", db).set_trace_callback(on_loop.append))
    on_loop.clear()
    on_threads.clear()
    return on_loop, on_threads


def verbs(statements: list[str]) -> list[str]:
    return [statement.split()[0] for statement in statements]


async def test_what_has_just_changed_is_read_on_the_loop_with_one_statement(tmp_path: Path) -> None:
    """A job, its submitter and its output: one SELECT in a transaction that ends at once, and no other thread."""
    async with opened(tmp_path) as store:
        claim = await running(store)
        with SimulatedKeeper(tmp_path) as keeper:
            keeper.begin(claim.job_id, "t").store(0, b"x")
            await store.finish(claim.job_id, "t", ended(), *keeper.record(claim.job_id, "t"))
        on_loop, on_threads = await traced(store)
        for read in (store.job, store.submitter, store.output):
            await read(claim.job_id)
            assert verbs(on_loop) == ["BEGIN", "SELECT", "ROLLBACK"]
            on_loop.clear()
        assert not on_threads


async def test_a_job_of_an_earlier_process_is_read_by_a_thread_first(tmp_path: Path) -> None:
    """What may have to come from the disk is read by a reading thread, and after that on the loop."""
    async with opened(tmp_path) as store:
        job = await store.add(SPEC)
    async with opened(tmp_path) as store:
        on_loop, on_threads = await traced(store)
        assert (await store.job(job.id)).id == job.id
        assert (verbs(on_loop), verbs(on_threads)) == ([], ["BEGIN", "SELECT", "ROLLBACK"])
        assert (await store.job(job.id)).id == job.id
        assert (verbs(on_loop), len(on_threads)) == (["BEGIN", "SELECT", "ROLLBACK"], 3)
        for _ in range(2):
            with pytest.raises(NoSuchJob):
                await store.job(job.id + 1)
        assert (len(on_loop), len(on_threads)) == (3, 9)


async def test_a_read_on_the_loop_sees_the_last_commit_and_holds_up_no_checkpoint(tmp_path: Path) -> None:
    """After each commit it sees that one; and between two reads the whole WAL can be copied into the database."""
    async with opened(tmp_path) as store:
        job = await store.add(SPEC)
        assert (await store.job(job.id)).state is State.QUEUED
        await store.request_cancel(job.id)
        on_loop, _ = await traced(store)
        assert (await store.job(job.id)).done
        assert on_loop
        await store.add(SPEC)
        assert await store._engine.checkpoint(), "a reader still needed an earlier state"
        await store.delete_job(job.id)
        with pytest.raises(NoSuchJob):
            await store.job(job.id)


async def test_what_fails_on_the_loop_is_read_by_a_thread(tmp_path: Path) -> None:
    """If SQLite fails there, the answer comes from a thread, and so does the error if that one has none."""
    async with opened(tmp_path) as store:
        job = await store.add(SPEC)
        _, on_threads = await traced(store)
        store._engine.read_at_once(lambda db: cast("sqlite3.Connection", db).close())
        assert (await store.job(job.id)).id == job.id
        assert verbs(on_threads) == ["BEGIN", "SELECT", "ROLLBACK"]
        with pytest.raises(NoSuchJob):
            await store.job(job.id + 1)


async def test_the_connection_of_the_loop_never_waits_nor_writes(tmp_path: Path) -> None:
    """It has no busy timeout, cannot write, and does not checkpoint; the threads' connections wait."""

    def settings(db: Any) -> list[int]:
        return [
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("busy_timeout", "query_only", "wal_autocheckpoint")
        ]

    async with opened(tmp_path) as store:
        assert store._engine.read_at_once(settings) == [0, 1, 0]
        assert await store._engine.read(settings) == [5000, 1, 0]


async def test_rows_are_recent_for_a_time_and_in_bounded_memory(tmp_path: Path) -> None:
    """A job that nobody has touched for two minutes is read by a thread again; so is the oldest of too many."""
    now = 0.0
    async with opened(tmp_path) as store:
        job = (await store.add(SPEC)).id
        _, on_threads = await traced(store)
        reads = PointReads(store._engine, lambda: now)

        async def is_read_by_a_thread() -> bool:
            on_threads.clear()
            await reads.run(job, lambda db: db.execute("SELECT 1").fetchone())
            return bool(on_threads)

        assert [await is_read_by_a_thread() for _ in range(2)] == [True, False]
        for _ in range(5):
            now += MAX_AGE
            assert not await is_read_by_a_thread(), "it was read within the last minute"
        now += 2 * MAX_AGE
        assert await is_read_by_a_thread()
        for number in range(job + 1, job + 2 * MAX_JOBS):
            reads.touched(number)
        assert await is_read_by_a_thread()
        assert len(reads._recent) + len(reads._older) <= 2 * MAX_JOBS
