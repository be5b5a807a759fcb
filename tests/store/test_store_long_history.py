"""What takes no longer in a long history: opening it, and the life of a job in it. For lists see the query plans."""

import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shellrunner.clock import now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.model import JobSpec, Retries
from shellrunner.store import HistorySize, Retention
from shellrunner.store.db import Db
from shellrunner.store.query import search
from shellrunner.store.sqlite.composition import open_store
from shellrunner.store.sqlite.store import SqliteStore
from shellrunner.store.units import trimming
from tests.support.histories import NOTHING, done, ended, listed, opened
from tests.support.waiting import until

pytestmark = pytest.mark.sqlite

_INSTRUCTIONS = 100  # for one tick
_TOKEN = "0123456789abcdef"


class Ticking(sqlite3.Connection):
    """A connection that counts what SQLite executes, except for the one that counts the jobs beside everything."""

    ticks = 0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if more["check_same_thread"]:
            super().set_progress_handler(self._tick, _INSTRUCTIONS)

    def set_progress_handler(self, *_: Any, **__: Any) -> None:
        """Keep the own one: nothing is interrupted here."""

    @staticmethod
    def _tick() -> None:
        Ticking.ticks += 1


async def make_history(path: Path, jobs: int) -> None:
    """Make a history of done jobs, a hundred of which have a file of output."""
    async with opened(path):
        pass
    with closing(sqlite3.connect(path / "history.db")) as db, db:
        db.execute(
            """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
            INSERT INTO jobs (id, state, priority, created, started, completed, ending, exit_code, duration, token,
                stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped, command, spec)
            SELECT i, 'done', 0, i, i + 1, i + 2, 'exited', 0, 0.5, ?, 70000, 0, 0, 0, 'true', '{"command":"true"}'
            FROM n""",
            (jobs, _TOKEN),
        )
        db.execute("UPDATE meta SET value = ? WHERE key = 'searched'", (str(jobs),))
    for number in range(1, jobs, jobs // 100):
        (path / "runs" / f"{number}.1.{_TOKEN}.out").touch()


async def cost_of_a_life(path: Path) -> int:
    """Open the history, run jobs in it; return how much SQLite executed for that."""
    Ticking.ticks = 0
    async with open_store(path, Retention(days=10**6, jobs=10**6)) as store:
        await done(store)
        job = await store.add(JobSpec(command="false", retries=Retries(max=1)))
        await store.claim(1, "u")
        await store.finish(job.id, "u", ended(1), *NOTHING, next_attempt_at=10**17)
        await store.request_cancel(job.id)
        await store.check()
    return Ticking.ticks


@pytest.mark.heavy
async def test_opening_and_running_cost_the_same_in_a_long_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite executes as much to open a history of 20,000 jobs, and to run jobs in it, as in one of 1,000."""
    costs: list[int] = []
    for jobs in (1_000, 20_000):
        await make_history(tmp_path / str(jobs), jobs)
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Ticking))
            patch.setattr(search, "_GATHER_DELAY", 1e6)  # else jobs are indexed in one of the lives, or not
            costs.append(await cost_of_a_life(tmp_path / str(jobs)))
    short, long = costs
    assert short > 0
    assert long < short + 400, costs


async def test_what_changes_while_a_history_is_counted_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is what the history had when it was opened and what came or went since; limits wait for it."""
    async with opened(tmp_path) as store:
        for number in range(3):
            await done(store, f"t{number}")
    may_count = threading.Event()

    def measure(db: Db) -> HistorySize:
        may_count.wait(20)
        return real_measure(db)

    real_measure = trimming.measure
    monkeypatch.setattr(trimming, "measure", measure)
    async with opened(tmp_path, jobs=2) as store:
        await done(store, "u")
        await store.delete_job(1)
        assert await left(store) == [2, 3, 4], "the limit is not applied yet"
        may_count.set()
        await until(lambda: left_are(store, [3, 4]))
        assert await store.size() == HistorySize(2, 0)


async def test_a_history_that_cannot_be_counted_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log and the metrics say that it could not be counted; the limit of age is still applied."""

    def fail(_: Db) -> HistorySize:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(trimming, "measure", fail)
    async with opened(tmp_path, days=1, jobs=1) as store:
        with pytest.raises(StoreUnavailable, match="malformed"):
            await store.size()
        await done(store, "new", completed=now_ms())
        await done(store, "newer", completed=now_ms())
        assert "could not be counted" in caplog.text
        assert await left(store) == [1, 2]
        await done(store, "old", completed=1)
        store._effects.trimmer.wake()
        await until(lambda: left_are(store, [1, 2]))


async def test_a_history_can_be_closed_while_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting ends at once, and its connection is closed before the one that writes."""
    counting = threading.Event()

    def count_for_ever(db: Db) -> HistorySize:
        counting.set()
        query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        return HistorySize(db.execute(query).fetchone()[0], 0)

    monkeypatch.setattr(trimming, "measure", count_for_ever)
    async with opened(tmp_path):
        await until(counting.is_set)
    assert not (tmp_path / "history.db-wal").exists(), "a connection is left"


async def left(store: SqliteStore) -> list[int]:
    return sorted(job.id for job in await listed(store))


async def left_are(store: SqliteStore, expected: list[int]) -> bool:
    return await left(store) == expected
