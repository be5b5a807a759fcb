"""Deleting many jobs: the preview is what is deleted, and nothing else is."""

from pathlib import Path

import pytest

from shellrunner.clock import Millis
from shellrunner.model import JobSpec
from shellrunner.model.filters import Filters
from shellrunner.store import DeleteCount
from shellrunner.store.query import selection
from shellrunner.store.sqlite.store import SqliteStore
from tests.support.histories import SPEC, done, opened


async def left(store: SqliteStore) -> list[int]:
    page = await store.page(Filters(), (), limit=1000)
    assert page.next is None
    return sorted(job.id for job in page.jobs)


async def test_only_matching_jobs_are_deleted(tmp_path: Path) -> None:
    """Matching jobs that are done are deleted, those that are not are counted, all others stay."""
    async with opened(tmp_path) as store:
        for code in (0, 1, 0, 1):
            await done(store, code=code)
        await store.add(SPEC)
        failed = Filters(exit_codes=frozenset({1}))
        assert await store.preview_delete(failed) == DeleteCount(2, 0)
        assert await store.delete_jobs(failed) == DeleteCount(2, 0)
        assert await left(store) == [1, 3, 5]
        assert await store.preview_delete(Filters(text="TRUE")) == DeleteCount(2, 1)
        assert await left(store) == [1, 3, 5]
        assert await store.delete_jobs(Filters(text="TRUE")) == DeleteCount(2, 1)
        assert await left(store) == [5]
        assert (await store.size()).jobs == 0
        assert await store.delete_jobs(Filters(text="make")) == DeleteCount(0, 0)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(created_from=0),
        Filters(completed_until=10_000),
        Filters(min_duration=0.5, max_duration=0.5),
        Filters(queues=frozenset({"default"})),
    ],
)
async def test_many_jobs_are_deleted_in_many_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: Filters
) -> None:
    """All matching jobs are deleted, also if they are more than one commit takes, in any order."""
    monkeypatch.setattr(selection, "BATCH_SIZE", 3)
    async with opened(tmp_path) as store:
        for number in range(10):
            await done(store, completed=2_000 + number // 4)
        commits = store.commits
        assert await store.delete_jobs(filters) == DeleteCount(10, 0)
        assert store.commits - commits == 4
        assert await left(store) == []


@pytest.mark.sqlite
async def test_jobs_that_are_accepted_meanwhile_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was accepted after the call stays, even if the clock was set back; a deleted one is no error."""
    monkeypatch.setattr(selection, "BATCH_SIZE", 2)
    moment: Millis = 1_000_000
    monkeypatch.setattr("shellrunner.store.sqlite.store.now_ms", lambda: moment)
    async with opened(tmp_path) as store:
        for _ in range(5):
            await done(store)
            moment += 10
        step, steps = store._engine.write, 0

        async def interrupted(*args: object, **more: object) -> object:
            nonlocal steps, moment
            steps += 1
            if steps == 2:
                moment = 1_000_000
                monkeypatch.setattr(store._engine, "write", step)
                await done(store)
                await store.delete_job(3)
            return await step(*args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(store._engine, "write", interrupted)
        assert await store.delete_jobs(Filters(created_from=0)) == DeleteCount(4, 0)
        assert await left(store) == [6]
        assert (await store.add(JobSpec(command="true"))).id == 7
