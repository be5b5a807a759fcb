"""Query plans and the cost of lists. S12: a page of a million jobs costs what a page of a thousand does."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from shellrunner.model import Ending, State
from shellrunner.model.filters import Filters
from shellrunner.store import rows
from shellrunner.store.output import location
from shellrunner.store.pagination import MAX_ID, Order, Sort, SortKey
from shellrunner.store.query import listing, search, selection
from shellrunner.store.query.walk import ScanLimits
from shellrunner.store.sqlite import schema
from shellrunner.store.sqlite.clock import clock_marks
from shellrunner.store.units import (
    admission,
    claiming,
    dependents,
    due_callbacks,
    idempotency_keys,
    lifecycle,
    locks,
    trimming,
)

pytestmark = pytest.mark.sqlite

# By name: what is not a list's.
STATEMENTS = {
    "one": rows.ONE,
    "some": rows.SOME,
    "a page": rows.LISTED,
    "a page of statuses": rows.LISTED_WITHOUT_SPEC,
    "outputs of a page": location.ENDED,
    "an attempt": rows.ATTEMPT,
    "running": rows.RUNNING,
    "cancelling": rows.CANCELLING,
    "the oldest of a queue": rows.OLDEST,
    "an output": location.LOCATE,
    "earlier attempts": location.EARLIER_VOLUMES,
    "an earlier attempt": location.EARLIER_ATTEMPT,
    "the head of a queue": claiming.HEAD,
    "claim": claiming.CLAIM,
    "end": lifecycle.END,
    "lock": locks.LOCK,
    "the oldest": trimming.OLDEST,
    "ahead of the clock": trimming.IN_FUTURE,
    "followers": dependents.DEPENDENTS,
    "due": admission.QUEUE_DUE,
    "next due": admission.NEXT,
    "due callbacks": due_callbacks.DUE,
    "next callback": due_callbacks.NEXT,
    "a key": idempotency_keys.FIND,
    "expired keys": idempotency_keys.EXPIRED,
    "the newest": selection.NEWEST,
    "retries, when the clock was set": clock_marks.SHIFT_RETRIES,
    "retries, after a boot": clock_marks.LIMIT_RETRIES,
}


class Recording(sqlite3.Connection):
    """A connection that records every statement."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.statements: set[str] = set()

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        self.statements.add(sql)
        return super().execute(sql, parameters)


def plan(db: sqlite3.Connection, sql: str) -> list[str]:
    return [row[3] for row in sqlite3.Connection.execute(db, f"EXPLAIN QUERY PLAN {sql}", (1,) * sql.count("?"))]


def check(sql: str, steps: list[str]) -> None:
    """Check that every step seeks, or walks an index in its own order up to a LIMIT."""
    assert steps
    ends = re.search(r"LIMIT (\?|1)\)?$", sql.strip()) is not None
    for step in steps:
        assert "TEMP B-TREE" not in step, (sql, steps)
        assert "AUTOMATIC" not in step, (sql, steps)
        if step.startswith("SCAN"):
            # `wanted`: the ids in the statement's own parameter; `search`: the entries of the index for a MATCH.
            own = re.match(r"SCAN (wanted|json_each) VIRTUAL TABLE", step) or step == "SCAN (subquery-1)"
            index = re.match(
                r"SCAN (jobs|callbacks) USING (COVERING )?INDEX|SCAN search VIRTUAL TABLE INDEX \d+:M", step
            )
            assert own or (index and ends), (sql, steps)
        elif re.match(r"SEARCH (jobs|labels) ", step) and not re.search(
            r"PRIMARY KEY \((rowid|.* AND job)=\?\)", step
        ):
            assert ends or sql in STATEMENTS.values(), (sql, steps)


@pytest.fixture
def db() -> Iterator[Recording]:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=Recording)) as db:
        schema.migrate(db)
        yield db


@pytest.mark.parametrize("name", STATEMENTS)
def test_s12_no_statement_scans_or_sorts_the_history(db: Recording, name: str) -> None:
    """S12: each statement's plan seeks by a key or walks an index; none sorts, and none scans `jobs` itself."""
    check(STATEMENTS[name], plan(db, STATEMENTS[name]))


FILTERS = {
    "none": Filters(),
    "results": Filters(with_result=True),
    "rare text": Filters(text="7777.json"),
    "common text": Filters(text="json"),
    "short text": Filters(text="j"),
    "no such text": Filters(text="json7"),
    "undone": Filters(states=frozenset({State.QUEUED, State.RUNNING})),
    "done": Filters(states=frozenset({State.DONE})),
    "failed": Filters(exit_codes=frozenset({1, 2})),
    "succeeded": Filters(exit_codes=frozenset({0})),
    "lost": Filters(endings=frozenset({Ending.LOST}), with_result=True),
    "exited": Filters(endings=frozenset({Ending.EXITED})),
    "a queue": Filters(queues=frozenset({"mail"})),
    "the default queue": Filters(queues=frozenset({"default"})),
    "labels": Filters(labels=(("env", "prod"), ("env", "test"))),
    "a common label": Filters(labels=(("env", "prod"),)),
    "created": Filters(created_from=100, created_until=150_000),
    "completed": Filters(completed_from=100),
    "short": Filters(max_duration=0.5),
    "long": Filters(min_duration=9.5, exit_codes=frozenset({1})),
    "never": Filters(created_from=5, created_until=5, with_result=True),
}
SORTS: dict[str, Sort] = {
    "": (),
    **{f"{key} {down}": (Order(key, down),) for key in SortKey for down in (False, True)},
    "-created,duration": (Order(SortKey.CREATED, True), Order(SortKey.DURATION, False)),
    "priority,queue,-completed": (
        Order(SortKey.PRIORITY, False),
        Order(SortKey.QUEUE, False),
        Order(SortKey.COMPLETED, True),
    ),
    "-ending,exit_code": (Order(SortKey.ENDING, True), Order(SortKey.EXIT_CODE, False)),
}


def fill(db: sqlite3.Connection, jobs: int) -> None:
    """Add a realistic mix: nearly all jobs alike, and some of every other kind throughout."""
    db.execute(
        """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
        INSERT INTO jobs (id, state, queue, priority, created, started, completed, ending, exit_code, duration,
            command, spec, stdout_bytes)
        SELECT i, iif(i % 100 < 99, 'done', 'queued'), iif(i % 10, 'default', 'mail'), iif(i % 20, 0, i % 7), i * 5,
            iif(i % 100 < 99, i * 5 + 1, NULL), iif(i % 100 < 99, i * 5 + i % 1000, NULL),
            CASE WHEN i % 100 < 98 THEN 'exited' WHEN i % 100 < 99 THEN 'lost' END,
            iif(i % 100 < 98, iif(i % 50, 0, i % 3), NULL), iif(i % 100 < 98, i % 977 / 100.0, NULL),
            'convert /srv/' || i || '.json', '{"command":"true"}', iif(i % 100 < 99, 0, NULL) FROM n""",
        (jobs,),
    )
    db.execute("INSERT INTO labels SELECT 'env', iif(id % 500, 'prod', 'test'), id FROM jobs")
    while search.add_next_jobs(db):
        pass


def pages(db: sqlite3.Connection, limits: ScanLimits, filters: Filters, sort: Sort) -> int:
    """Read a page at the beginning, the next one, and one at the end; return how many positions they had."""
    first, after = listing.positions(db, filters, sort, limit=10, scan_limits=limits)
    middle: Sequence[Any] = ()
    if after is not None:
        middle, _ = listing.positions(db, filters, sort, limit=10, after=after, scan_limits=limits)
    nulls = (*[None] * len(sort), 0 if not sort or sort[-1].descending else MAX_ID)
    last, _ = listing.positions(db, filters, sort, limit=10, after=nulls, scan_limits=limits)
    return len(first) + len(middle) + len(last)


@pytest.mark.heavy
@pytest.mark.parametrize("filters", FILTERS)
def test_s12_no_list_scans_or_sorts_the_history(db: Recording, filters: str) -> None:
    """S12: every statement of every list, in any order, walks an index up to a LIMIT or looks up ids."""
    fill(db, 600)
    db.statements.clear()
    for sort in SORTS.values():
        for limits in (
            ScanLimits(),
            ScanLimits(max_sorted=0, batch_size=5, max_examined=200),
            ScanLimits(max_sorted=20, batch_size=20, max_examined=100),
        ):
            pages(db, limits, FILTERS[filters], sort)
    selection.page(db, FILTERS[filters], MAX_ID, None)
    assert len(db.statements) > 5
    for sql in db.statements:
        check(sql, plan(db, sql))


def test_the_test_of_plans_would_notice(db: Recording) -> None:
    """The check fails for statements that scan, sort, or walk without a LIMIT."""
    for sql in (
        "SELECT id FROM jobs WHERE command = ?",
        "SELECT id FROM jobs WHERE command = ? LIMIT ?",
        "SELECT id FROM jobs WHERE exit_code != 0 AND exit_code = ?",
        "SELECT id FROM jobs ORDER BY command LIMIT ?",
        "SELECT id FROM jobs WHERE created > ? ORDER BY duration LIMIT ?",
        "SELECT rowid FROM search WHERE search MATCH ?",
        "SELECT id FROM jobs INDEXED BY jobs_created ORDER BY created",
    ):
        with pytest.raises(AssertionError):
            check(sql, plan(db, sql))


def cost(db: sqlite3.Connection, limits: ScanLimits, filters: Filters, sort: Sort) -> int:
    """Return how many hundred instructions SQLite executes for these pages."""
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    db.set_progress_handler(tick, 100)
    pages(db, limits, filters, sort)
    db.set_progress_handler(None, 0)
    return ticks


@pytest.mark.heavy
def test_s12_a_page_costs_the_same_in_a_long_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """S12: no list executes more than a few times as much among 40,000 jobs as it does among 2,000."""
    limits = ScanLimits(max_sorted=50, batch_size=50, max_examined=500)
    monkeypatch.setattr(search, "_RARE_LIMIT", 200)
    short, long = [sqlite3.connect(":memory:", isolation_level=None) for _ in range(2)]
    with closing(short), closing(long):
        for db, jobs in ((short, 2_000), (long, 40_000)):
            schema.migrate(db)
            fill(db, jobs)
        for name, filters in FILTERS.items():
            for order, sort in SORTS.items():
                most = 3 * max(cost(short, limits, filters, sort), 250)
                assert cost(long, limits, filters, sort) < most, (name, order)
