"""Queries' plans: S12, a page of a million jobs costs what a page of a thousand does."""

import sqlite3
import time
from pathlib import Path

import pytest

from shellrunner.model import State
from shellrunner.store import changes, output, rows, schema
from shellrunner.store.sqlite import SqliteStore
from tests.store.histories import opened

STATEMENTS = {
    "a page": (rows.PAGE, 2),
    **{f"a page of {state}": (sql, 2) for state, sql in rows.PAGE_OF.items()},
    "a page of results": (rows.PAGE_OF_RESULTS, 2),
    "running": (rows.RUNNING, 0),
    "one": (rows.ONE, 1),
    "an output": (output.LOOK, 1),
    "claim": (changes.CLAIM_NEXT, 3),
    "end": (changes.END, 16),
    "state": (changes.STATE, 1),
    "oldest": (changes.OLDEST, 1),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_s12_no_statement_scans_or_sorts_the_history(name: str) -> None:
    """S12: each statement's plan searches by a key or walks an index; none sorts, and none scans `jobs` itself."""
    sql, count = STATEMENTS[name]
    db = sqlite3.connect(":memory:")
    schema.migrate(db)
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", (1,) * count)]
    db.close()
    assert plan
    for step in plan:
        assert "TEMP B-TREE" not in step
        # A walk along a partial index of what is queued or done, ended by LIMIT, is no scan of the history.
        assert not step.startswith("SCAN") or ("USING" in step and "INDEX jobs_" in step), plan


async def fill(store: SqliteStore, jobs: int) -> None:
    def insert(db: sqlite3.Connection) -> None:
        db.execute(
            """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
            INSERT INTO jobs (id, state, priority, created, started, completed, ending, exit_code, command, spec,
                stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped, cpu_user, cpu_system, max_rss_bytes)
            SELECT i, 'done', 0, i, i, i, 'exited', 0, 'true',
                '{"command":"true"}', 0, 0, 0, 0, 0.1, 0.1, 1 FROM n""",
            (jobs,),
        )

    await store._writer.run(insert)


async def test_s12_pages_cost_the_same_in_a_long_history(tmp_path: Path) -> None:
    """S12: pages deep inside 100,000 jobs take no more than a few times what they take among 1,000."""

    async def cost(jobs: int) -> float:
        async with opened(tmp_path / str(jobs)) as store:
            await fill(store, jobs)
            best = 1.0
            for _ in range(10):
                began = time.perf_counter()
                for states in (frozenset(State), frozenset({State.DONE}), frozenset({State.RUNNING, State.DONE})):
                    assert len(await store.jobs(states=states, limit=50, before=jobs // 2)) == 50
                assert len(await store.results(limit=50, before=jobs // 2)) == 50
                best = min(best, time.perf_counter() - began)
            return best

    assert await cost(100_000) < 4 * await cost(1_000)
