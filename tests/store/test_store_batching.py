"""Group commit: units that are submitted together are one commit, and one that fails does not affect the others."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shellrunner.errors import NoSuchJob, StoreUnavailable
from shellrunner.model import JobSpec, Volume
from shellrunner.store import Head
from shellrunner.store.components.batch_queue import WorkItem
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import NOTHING, SPEC, done, ended, listed, opened, running


async def test_units_submitted_together_are_one_commit(tmp_path: Path) -> None:
    """A hundred jobs accepted at once cost at most two commits."""
    async with opened(tmp_path) as store:
        before = store.commits
        jobs = await asyncio.gather(*(store.add(SPEC) for _ in range(100)))
        assert len({job.id for job in jobs}) == 100
        assert store.commits - before <= 2


async def test_accepting_and_claiming_are_one_commit_and_so_are_finishing_and_the_next_claim(tmp_path: Path) -> None:
    """With a keeper waiting, add + claim is one commit, and finish(n) + claim(n + 1) is one."""
    async with opened(tmp_path) as store:
        waiting = asyncio.create_task(store.claim(1, "one"))
        await store.check()
        before = store.commits
        job = await store.add(SPEC)
        claim = await waiting
        assert (claim.job_id, store.commits - before) == (job.id, 1)

        await store.add(SPEC)
        waiting = asyncio.create_task(store.claim(2, "two"))
        second = await waiting
        await store.add(SPEC)
        before = store.commits
        finishing = store.finish(second.job_id, "two", ended(), *NOTHING)
        third = await store.claim(2, "three")
        assert await finishing
        assert (third.job_id, store.commits - before) == (second.job_id + 1, 1)


async def test_a_job_costs_two_commits_at_most(tmp_path: Path) -> None:
    """One job after the other, each accepted, claimed and finished alone: two commits each."""
    async with opened(tmp_path) as store:
        for number in range(10):
            before = store.commits
            waiting = asyncio.create_task(store.claim(1, f"t{number}"))
            await asyncio.sleep(0)
            await store.add(SPEC)
            claim = await waiting
            assert await store.finish(claim.job_id, claim.token, ended(), *NOTHING)
            assert store.commits - before == 2


@pytest.mark.sqlite
async def test_a_unit_that_fails_does_not_hurt_its_neighbours(tmp_path: Path) -> None:
    """Of a batch with one bad statement and one bug, all else is committed, and each caller gets its own error."""
    async with opened(tmp_path) as store:

        def bad_sql(db: Any) -> None:
            db.execute("INSERT INTO meta VALUES ('left behind', '')")
            db.execute("INSERT INTO nowhere VALUES (1)")

        def bug(db: Any) -> None:
            db.execute("INSERT INTO meta VALUES ('left behind', '')")
            raise ZeroDivisionError

        one, sql, division, two = await asyncio.gather(
            store.add(SPEC),
            store._engine.write(bad_sql),
            store._engine.write(bug),
            store.add(SPEC),
            return_exceptions=True,
        )
        assert isinstance(sql, StoreUnavailable)
        assert isinstance(division, ZeroDivisionError)
        everything = await listed(store)
        assert {job.id for job in everything} == {one.id, two.id}  # type: ignore[union-attr]
        left = await store._engine.read(lambda db: db.execute("SELECT key FROM meta").fetchall())
        assert ("left behind",) not in left


async def test_a_refusal_costs_its_neighbours_nothing(tmp_path: Path) -> None:
    """A unit that refuses does not cause the batch to be run again: it stays one commit."""
    async with opened(tmp_path) as store:
        before = store.commits
        answers = await asyncio.gather(
            store.add(SPEC), store.delete_job(99), store.add(SPEC), store.add(SPEC), return_exceptions=True
        )
        assert isinstance(answers[1], NoSuchJob)
        assert store.commits - before == 1


async def test_a_cancelled_caller_does_not_cancel_its_unit(tmp_path: Path) -> None:
    """A job whose caller was cancelled after submitting it is in the history once."""
    async with opened(tmp_path) as store:
        task = asyncio.create_task(store.add(SPEC))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.check()
        assert len(await listed(store)) == 1


async def test_a_closed_history_raises(tmp_path: Path) -> None:
    """After closing, reads, writes and waiting claims end with StoreUnavailable instead of waiting for ever."""
    async with opened(tmp_path) as store:
        waiting = asyncio.create_task(store.claim(1, "t"))
        await store.check()
    for call in (store.add(SPEC), store.job(1), waiting):
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(call, 5)


async def _pages(store: SqliteStore, more: int | None) -> None:
    def limit(db: Any) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count={pages + more if more is not None else 1 << 30}")

    await store._engine._writing.run(limit)  # not a batch, which would serve claims


@pytest.mark.sqlite
async def test_s8_a_full_history_refuses_whole_and_recovers(tmp_path: Path) -> None:
    """S8: what does not fit is refused with nothing of it left; once there is space the next write works."""
    async with opened(tmp_path) as store:
        small = await store.add(SPEC)
        await _pages(store, 3)
        big = JobSpec(command="x" * 100_000)
        answers = await asyncio.gather(*(store.add(big) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert [job.id for job in await listed(store)] == [small.id]
        await _pages(store, None)
        accepted = await store.add(big)
        assert (await store.job(accepted.id)).spec == big


@pytest.mark.sqlite
async def test_a_claim_waits_through_a_full_disk(tmp_path: Path) -> None:
    """A waiting claim survives failed commits and is served once there is space, without another write."""
    async with opened(tmp_path) as store:
        await store.add(JobSpec(command="x" * 60_000))
        await _pages(store, 0)
        waiting = asyncio.create_task(store.claim(1, "k" * 9000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.3)
        await _pages(store, None)
        assert (await asyncio.wait_for(waiting, 5)).job_id == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", path], check=False)
    if mounted.returncode:
        pytest.skip("no right to mount")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.sqlite
async def test_s8_on_a_full_disk_a_delete_still_works_and_frees_space(small_disk: Path) -> None:
    """S8: without a free byte on the disk, adding fails, an end is recorded, a delete works, and then adding does."""
    async with opened(small_disk) as store:
        first = await running(store)
        filled = await running(store, "u")
        head = Head(os.urandom(65_536), b"")
        assert await store.finish(filled.job_id, "u", ended(), Volume(stdout_bytes=65_536), head)
        fill = small_disk / "fill"
        with fill.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass
        big = [store.add(JobSpec(command="x" * 100_000)) for _ in range(100)]
        answers = await asyncio.gather(*big, return_exceptions=True)
        assert isinstance(answers[-1], StoreUnavailable)
        assert await store.finish(first.job_id, "t", ended(), *NOTHING)
        await store.delete_job(filled.job_id)
        fill.unlink()
        await store.add(SPEC)
        await store.check()


@pytest.mark.heavy
async def test_s9_submits_readers_and_a_purge_at_once(tmp_path: Path) -> None:
    """S9: 50 parallel submits, lists and deletes at the same time: not one error."""
    async with opened(tmp_path, jobs=5) as store:

        async def read() -> None:
            for _ in range(50):
                await listed(store, 20)
                await listed(store, 20, with_result=True)

        async def purge() -> None:
            for number in range(50):
                job = await done(store, f"p{number}")
                if number % 3 == 0:
                    await asyncio.gather(store.delete_job(job.id), return_exceptions=True)

        await asyncio.gather(*(store.add(JobSpec(command="true", priority=-1)) for _ in range(50)), read(), purge())


@pytest.mark.sqlite
async def test_a_failed_commit_leaves_nothing_and_the_next_works(tmp_path: Path) -> None:
    """When COMMIT itself fails, all of that batch is refused with nothing of it left, and the next is whole."""
    async with opened(tmp_path) as store:

        def prepare(db: Any) -> None:
            db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
            db.execute("CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")

        def poison(db: Any) -> None:
            db.execute("INSERT INTO child VALUES (1)")  # noticed by COMMIT only

        await store._engine.write(prepare)
        await store._engine._writing.run(lambda db: db.execute("PRAGMA foreign_keys=ON"))
        before = store.commits
        answers = await asyncio.gather(
            store.add(SPEC), store._engine.write(poison), store.add(SPEC), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
        assert store.commits == before
        assert (await store.add(SPEC)).id == 1
        await store.check()


@pytest.mark.sqlite
async def test_a_crash_of_a_background_task_ends_the_block_loudly(tmp_path: Path) -> None:
    """A bug in a background task of the store is raised out of its block at once."""

    def bug(_: object) -> None:
        raise ZeroDivisionError

    async def block() -> None:
        async with opened(tmp_path) as store:
            await store._engine.writes.submit(WorkItem(lambda db: None, bug))

    with pytest.raises(RuntimeError, match="crashed") as caught:
        await asyncio.wait_for(block(), 5)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_an_exception_of_the_block_passes_as_it_is(tmp_path: Path) -> None:
    """What the block raises comes out unchanged, and the history is closed in order."""

    async def block() -> None:
        async with opened(tmp_path) as store:
            await store.add(SPEC)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    async with opened(tmp_path) as store:
        assert (await store.job(1)).id == 1
