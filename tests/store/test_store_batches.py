"""Jobs accepted together: all or none, in one commit, with one key for all of them."""

import asyncio
import os
import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.errors import (
    InvalidJob,
    InvalidJobs,
    JobGone,
    KeyReused,
    NoSpace,
    QueueFull,
    StoreUnavailable,
    TooManyQueuedJobs,
)
from shellrunner.model import JobSpec, Queued, Running, State, Submitter, Waiting
from shellrunner.sealing import key_files
from shellrunner.sealing.key_files import KeyFiles
from shellrunner.store import IdempotencyKey, QueueLimit, QueueLimits, Retention, SubmitterLimit
from shellrunner.store.components.batch_queue import WorkItem
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.engine.batch_writer import BatchWriter
from shellrunner.store.sqlite.store import SqliteStore
from shellrunner.store.units import idempotency_keys
from tests.support.histories import NOTHING, SPEC, ended, listed, opened
from tests.support.waiting import until

CI, BLIND = Submitter("token:ci"), Submitter("token:blind", sees_all=False)
KEY = IdempotencyKey("who", "k", b"a digest of all")
SECRET = JobSpec(command="cat", env={"A": "канарейка"})


def named(*commands: str, **more: Any) -> list[JobSpec]:
    return [JobSpec(command=command, **more) for command in commands]


@asynccontextmanager
async def statements(store: SqliteStore) -> AsyncIterator[list[str]]:
    """List what the unit that adds jobs executes, whatever else is in its transaction."""
    seen: list[str] = []
    units: list[list[str]] = []

    async def trace(callback: Any) -> None:
        await store._engine._writing.run(lambda db: db.set_trace_callback(callback))

    def run_unit(self: BatchWriter, item: WorkItem, db: sqlite3.Connection) -> None:
        seen.clear()
        real(self, item, db)
        units.append([*seen])

    real = BatchWriter._run_unit
    own: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchWriter, "_run_unit", run_unit)
        await trace(seen.append)
        yield own
        await trace(None)
    (added,) = [unit for unit in units if any(text.startswith("INSERT INTO jobs") for text in unit)]
    own += added


async def test_many_jobs_are_one_commit_in_their_order(tmp_path: Path) -> None:
    """A hundred jobs have consecutive ids in the order of their specs, and cost one commit."""
    async with opened(tmp_path) as store:
        await store.add(SPEC)
        before = store.commits
        jobs = await store.add_many(named(*(f"echo {number}" for number in range(100))))
        assert store.commits - before == 1
        assert [(job.id, job.spec.command) for job in jobs] == [(2 + n, f"echo {n}") for n in range(100)]
        assert [job.id for job in reversed(await listed(store))] == list(range(1, 102))


@pytest.mark.sqlite
async def test_a_plain_job_of_many_costs_one_statement(tmp_path: Path) -> None:
    """Beside the transaction itself, a batch costs an INSERT per job; with a key two statements more for all."""
    async with opened(tmp_path) as store:
        async with statements(store) as seen:
            await store.add_many([SPEC] * 50)
        assert len(seen) == 50
        async with statements(store) as seen:
            await store.add_many([SPEC] * 50, KEY)
        assert len(seen) == 50 + 2


async def test_as_many_as_keepers_wait_are_claimed_in_the_same_commit(tmp_path: Path) -> None:
    """Three keepers get the three jobs with the highest priority, the oldest first; nothing else is written."""
    async with opened(tmp_path) as store:
        waiting = [asyncio.create_task(store.claim(n, f"t{n}")) for n in (1, 2, 3)]
        await store.check()
        before = store.commits
        specs = [JobSpec(command="true", priority=priority) for priority in (0, 1, 0, 2, 1)]
        jobs = await store.add_many(specs)
        claims = await asyncio.gather(*waiting)
        assert store.commits - before == 1
        assert [claim.job_id for claim in claims] == [4, 2, 5]
        assert [isinstance(job.phase, Running) for job in jobs] == [False, True, False, True, True]
        assert (await store.claim(4, "t4")).job_id == 1


async def test_with_a_key_they_are_claimed_in_the_same_commit_too(tmp_path: Path) -> None:
    """Whether a key is new is known only in the transaction; the claims follow at its end."""
    async with opened(tmp_path) as store:
        waiting = [asyncio.create_task(store.claim(n, f"t{n}")) for n in (1, 2)]
        await store.check()
        before = store.commits
        await store.add_many([SPEC] * 3, KEY)
        assert [claim.job_id for claim in await asyncio.gather(*waiting)] == [1, 2]
        assert store.commits - before == 1


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (QueueLimits(3), QueueFull),
        (QueueLimits(queues={"default": QueueLimit(max_queued=3)}), QueueFull),
        (QueueLimits(submitters={"token:ci": SubmitterLimit(max_queued=3)}), TooManyQueuedJobs),
    ],
    ids=["of all", "of the queue", "of the token"],
)
async def test_a_limit_counts_all_of_them(tmp_path: Path, limits: QueueLimits, error: Any) -> None:
    """If not all of them may wait, none is accepted, and the error says for how many there is room."""
    async with opened(tmp_path, limits) as store:
        await store.add(SPEC, by=CI)
        with pytest.raises(error, match="room for 2 of these 3 jobs") as refused:
            await store.add_many([SPEC] * 3, by=CI)
        assert (refused.value.members["limit"], refused.value.members["room"]) == (3, 2)
        assert len(await listed(store)) == 1
        assert len(await store.add_many([SPEC] * 2, by=CI)) == 2


async def test_what_starts_at_once_takes_no_place(tmp_path: Path) -> None:
    """With two keepers waiting and one place in the queue, three jobs are accepted and four are not."""
    async with opened(tmp_path, QueueLimits(1)) as store:
        waiting = [asyncio.create_task(store.claim(n, f"t{n}")) for n in (1, 2)]
        await store.check()
        with pytest.raises(QueueFull):
            await store.add_many([SPEC] * 4)
        assert not any(task.done() for task in waiting)
        jobs = await store.add_many([SPEC] * 3)
        assert [type(job.phase) for job in jobs] == [Running, Running, Queued]
        await asyncio.gather(*waiting)


async def test_batches_of_one_commit_share_what_room_there_is(tmp_path: Path) -> None:
    """Of two batches that arrive together the first takes the places; the other one is refused as a whole."""
    async with opened(tmp_path, QueueLimits(5)) as store:
        before = store.commits
        first, second, third = await asyncio.gather(
            *(store.add_many([SPEC] * number) for number in (3, 3, 2)), return_exceptions=True
        )
        assert isinstance(second, QueueFull)
        assert second.members["room"] == 2
        assert store.commits - before == 1
        assert [len(jobs) for jobs in (first, third) if not isinstance(jobs, BaseException)] == [3, 2]


async def test_an_unknown_prerequisite_refuses_all(tmp_path: Path) -> None:
    """Every `after` that names no job is reported where it stands; jobs of the same batch have no ids yet."""
    async with opened(tmp_path) as store:
        first = await store.add(SPEC, by=CI)
        specs = [SPEC, JobSpec(command="a", after=(first.id,)), JobSpec(command="b", after=(3, first.id, 99))]
        good, bad = await asyncio.gather(store.add(SPEC), store.add_many(specs), return_exceptions=True)
        assert isinstance(bad, InvalidJobs)
        assert [error["pointer"] for error in bad.members["errors"]] == ["#/jobs/2/after/0", "#/jobs/2/after/2"]
        assert not isinstance(good, BaseException)
        assert len(await listed(store)) == 2
        with pytest.raises(InvalidJob) as alone:
            await store.add(JobSpec(command="a", after=(99,)))
        assert alone.value.members["errors"] == [{"pointer": "#/after/0", "detail": "there is no job 99"}]


async def test_a_prerequisite_that_the_submitter_may_not_see_is_unknown(tmp_path: Path) -> None:
    """For a token without `read`, the jobs of others do not exist in `after`."""
    async with opened(tmp_path) as store:
        theirs, own = await store.add(SPEC, by=CI), await store.add(SPEC, by=BLIND)
        with pytest.raises(InvalidJobs) as refused:
            await store.add_many([JobSpec(command="a", after=(own.id, theirs.id))], by=BLIND)
        assert [error["pointer"] for error in refused.value.members["errors"]] == ["#/jobs/0/after/1"]
        (job,) = await store.add_many([JobSpec(command="a", after=(own.id,))], by=BLIND)
        assert isinstance(job.phase, Waiting)


async def test_mixed_jobs_go_where_each_would_alone(tmp_path: Path) -> None:
    """Jobs that wait, are skipped, are queued and have secrets, labels or a queue of their own, all in one commit."""
    async with opened(tmp_path, QueueLimits(queues={"default": QueueLimit(), "slow": QueueLimit(1)})) as store:
        failed = await store.add(SPEC)
        await store.claim(1, "t")
        await store.finish(failed.id, "t", ended(1), *NOTHING)
        undone = await store.add(SPEC)
        before = store.commits
        jobs = await store.add_many(
            [
                SPEC,
                JobSpec(command="a", after=(failed.id,)),
                JobSpec(command="a", after=(undone.id,)),
                JobSpec(command="a", start_at="2096-01-01T00:00:00Z"),
                JobSpec(command="a", queue="slow", labels={"team": "web"}),
                SECRET,
            ]
        )
        assert store.commits - before == 1
        states = [State.QUEUED, State.DONE, State.WAITING, State.WAITING, State.QUEUED, State.QUEUED]
        assert [job.state for job in jobs] == states
        assert [job.id for job in await listed(store, labels=(("team", "web"),))] == [jobs[4].id]
        overview = {each.name: (each.queued, each.waiting) for each in (await store.queues()).queues}
        assert overview == {"default": (3, 2), "slow": (1, 0)}


async def test_watchers_are_notified_once(tmp_path: Path) -> None:
    """A subscriber to all jobs is woken once for a batch, and finds every job of it in the change log."""
    async with opened(tmp_path) as store:
        with store.watch_changes() as subscription:
            head = store.changes.head
            woken = 0

            async def count() -> None:
                nonlocal woken
                while True:
                    await subscription.wait()
                    woken += 1

            counting = asyncio.create_task(count())
            await store.add_many([SPEC] * 20)
            await store.check()
            counting.cancel()
        assert woken == 1
        assert store.changes.head - head == 20


# Idempotency-Keys ------------------------------------------------------------------------------------------------


async def test_a_key_stands_for_all_of_them(tmp_path: Path) -> None:
    """A repeat returns the same jobs as they are now, also after a restart; another body is refused."""
    async with opened(tmp_path) as store:
        await store.add(SPEC)
        first, again = await asyncio.gather(*(store.add_many(named("a", "b", "c"), KEY) for _ in range(2)))
        assert [job.id for job in first] == [job.id for job in again] == [2, 3, 4]
        await store.request_cancel(3)
    async with opened(tmp_path) as store:
        later = await store.add_many(named("a", "b", "c"), KEY)
        assert [(job.id, job.state) for job in later] == [
            (2, State.QUEUED),
            (3, State.DONE),
            (4, State.QUEUED),
        ]
        with pytest.raises(KeyReused):
            await store.add_many(named("a"), IdempotencyKey("who", "k", b"another body"))
        assert len(await listed(store)) == 4


async def test_a_key_of_which_a_job_was_deleted_names_all_of_them(tmp_path: Path) -> None:
    """What is left of the batch can be found, and nothing is submitted a second time."""
    async with opened(tmp_path) as store:
        await store.add_many(named("a", "b", "c"), KEY)
        await store.request_cancel(2)
        await store.delete_job(2)
        with pytest.raises(JobGone, match=r"jobs 1 to 3 were submitted .* job 2 has been deleted"):
            await store.add_many(named("a", "b", "c"), KEY)
        assert [job.id for job in await listed(store)] == [3, 1]


@pytest.mark.sqlite
async def test_a_key_expires_as_a_whole(tmp_path: Path) -> None:
    """After 24 hours the same request is a new batch, and the key stands for that one."""
    async with opened(tmp_path) as store:
        await store.add_many(named("a", "b"), KEY)
        long_ago = now_ms() - idempotency_keys.LIFETIME - 1
        await store._engine.write(lambda db: db.execute("UPDATE keys SET created = ?", (long_ago,)) and None)
        for _ in range(2):
            assert [job.id for job in await store.add_many(named("a", "b"), KEY)] == [3, 4]


async def test_a_refused_batch_leaves_no_key(tmp_path: Path) -> None:
    """After a refusal the key can be used for the corrected batch."""
    async with opened(tmp_path, QueueLimits(2)) as store:
        with pytest.raises(QueueFull):
            await store.add_many([SPEC] * 3, KEY)
        other = IdempotencyKey("who", "k", b"a digest of two")
        assert [job.id for job in await store.add_many([SPEC] * 2, other)] == [1, 2]


# Failures --------------------------------------------------------------------------------------------------------


@pytest.mark.sqlite
async def test_what_does_not_fit_is_refused_whole(tmp_path: Path) -> None:
    """A history that is full in the middle of a batch has nothing of it; the retry with the key has all of it."""

    async def limit(store: SqliteStore, more: int | None) -> None:
        def change(db: Any) -> None:
            (pages,) = db.execute("PRAGMA page_count").fetchone()
            db.execute(f"PRAGMA max_page_count={pages + more if more is not None else 1 << 30}")

        await store._engine._writing.run(change)

    specs = named(*("x" * 3000 for _ in range(40)), env={"A": "канарейка"})
    async with opened(tmp_path) as store:
        await store.add(SPEC)
        await limit(store, 10)
        with pytest.raises(StoreUnavailable):
            await store.add_many(specs, KEY)
        assert [job.id for job in await listed(store)] == [1]
        await until(lambda: not KeyFiles(str(tmp_path)).names(), what="the keys of the secrets are destroyed")
        await limit(store, None)
        jobs = await store.add_many(specs, KEY)
        assert len(jobs) == len({job.id for job in jobs}) == 40
        assert len(await listed(store)) == 41


@pytest.mark.sqlite
async def test_a_restored_history_gives_no_id_of_a_batch_twice(tmp_path: Path) -> None:
    """More ids than are reserved at once are reserved before the batch is written."""
    async with opened(tmp_path) as store:
        await store.add(SPEC)
        jobs = await store.add_many([SPEC] * 1_001)
        assert jobs[-1].id == 1_002
        assert store._parts.high_water._mark.ids >= 1_002


# Secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.sqlite
async def test_secrets_share_one_sync_of_the_directory_and_few_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty jobs with values: a key each, one directory sync, one commit, and never forty files open."""
    synced: list[str] = []
    monkeypatch.setattr(key_files, "sync_directory", synced.append)
    monkeypatch.setattr(key_files, "_MAX_OPEN", 10)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with opened(tmp_path, QueueLimits(40)) as store:
        taken = set(map(int, os.listdir("/proc/self/fd")))
        twenty_more = [number for number in range(1000) if number not in taken][20]
        resource.setrlimit(resource.RLIMIT_NOFILE, (twenty_more, limits[1]))
        try:
            before = store.commits
            jobs = await store.add_many([SECRET] * 40)
            assert (store.commits - before, len(synced), len(KeyFiles(str(tmp_path)).names())) == (1, 1, 40)
            assert (await store.claim(1, "t")).spec == SECRET
            with pytest.raises(QueueFull):
                await store.add_many([SECRET] * 40)
            names = KeyFiles(str(tmp_path)).names
            await until(lambda: len(names()) == 40, what="the keys of the refused batch are destroyed")
            await asyncio.gather(*(store.request_cancel(job.id) for job in jobs[1:]))
            await until(lambda: len(names()) == 1, what="the keys of the cancelled jobs are destroyed")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.sqlite
async def test_a_disk_that_is_nearly_full_takes_none(tmp_path: Path) -> None:
    """As for a job alone: while less than the reserve is free, nothing is accepted, and no key of a secret stays."""
    async with open_store(tmp_path, Retention(), min_free=1 << 60) as store:
        with pytest.raises(NoSpace):
            await store.add_many([SECRET, SPEC])
        assert await listed(store) == []
        await until(lambda: not KeyFiles(str(tmp_path)).names(), what="the keys of the secrets are destroyed")
