"""Text search: matches in any script, indexed or not, and the index that trails behind."""

import asyncio
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shellrunner.errors import StoreUnavailable
from shellrunner.model import JobSpec
from shellrunner.model.filters import Filters
from shellrunner.store.db import UnitOfWork
from shellrunner.store.query import listing, search
from shellrunner.store.sqlite import schema
from shellrunner.store.sqlite.store import SqliteStore
from shellrunner.store.units import lifecycle
from tests.support.histories import opened
from tests.support.waiting import until


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        schema.migrate(db)
        yield db


def add(db: sqlite3.Connection, *commands: str) -> None:
    rows = [(command,) for command in commands]
    db.executemany(
        """INSERT INTO jobs (state, priority, created, started, completed, ending, exit_code, command, spec)
        VALUES ('done', 0, 1, 1, 1, 'exited', 0, ?, '{"command":"true"}')""",
        rows,
    )


def found(db: sqlite3.Connection, needle: str) -> list[int]:
    """Return the ids of all jobs whose command contains the text, oldest first."""
    places, after = listing.positions(db, Filters(text=needle), (), limit=1000)
    assert after is None
    return [int(place[-1] or 0) for place in reversed(places)]


def entries(db: sqlite3.Connection, gram: str) -> list[int]:
    return [row[0] for row in db.execute("SELECT rowid FROM search WHERE search MATCH ?", (f'"{gram}"',))]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("command", "needle", "there"),
    [
        ("Обработать ОТЧЁТ", "отчёт", True),
        ("обработать отчёт", "ОБРАБОТ", True),
        ("мой", "мои", False),  # й is a letter of its own, and no и with something above
        ("мо\u0438\u0306 дом", "мой", True),  # the same letter written as two
        ("мой дом", "МО\u0418\u0306", True),
        ("мои\u0306", "и", False),
        ("Straße 5", "STRASSE", True),
        ("STRASSE", "straße", True),
        ("STRAẞE", "strasse", True),
        ("Straße", "ß", True),
        ("İstanbul", "i\u0307stanbul", True),
        ("İstanbul", "istanbul", False),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς", True),
        ("οδυσσευς", "ΣΣΕΥΣ", True),
        ("ᾳ ῼ", "ΑΙ ΩΙ", True),
        ("ｆｕｌｌ", "full", False),
        ("ﬁnd", "FIND", True),
        ("echo 👩‍👩‍👧 🎉🎉", "🎉🎉", True),
        ("echo 👩‍👩‍👧", "👩‍👩‍👧", True),
        ("echo 👩‍👩‍👧", "👩‍👩‍👦", False),
        ('echo "it\'s"', '"it\'s"', True),
        ('a""b', '""b', True),
        ("a AND b OR c*", "and b or c*", True),
        ("x NEAR(y)", "near(y)", True),
        ("percent %_ \\", "%_ \\", True),
        ("line\none\ttwo", "e\nONE\tT", True),
        ("ab", "ab", True),
        ("ab", "b", True),
        ("ab", "abc", False),
        ("abc", "ab\0", False),
        ("abc", "abc\0", False),
        ("abcd bcde", "abcde", False),
        ("x" * 5000 + "needle", "xxxneedle", True),
        ("x" * 5000 + "needle", "x" * 4000 + "needle", True),
        ("x" * 3000, "x" * 4000, False),
    ],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_what_is_found(db: sqlite3.Connection, command: str, needle: str, there: bool, indexed: bool) -> None:
    """A command is found by any part of it in any case (Unicode's canonical caseless match), indexed or not yet."""
    add(db, command, "something else")
    if indexed:
        assert search.add_next_jobs(db)
    assert found(db, needle) == ([1] if there else [])


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@pytest.mark.heavy
@pytest.mark.sqlite
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_index_and_looking_agree(commands: list[str], data: st.DataObject) -> None:
    """The index finds what comparing every command finds, also while only some jobs are indexed."""
    command = data.draw(st.sampled_from(commands))
    begin = data.draw(st.integers(0, len(command)))
    needle = command[begin : data.draw(st.integers(begin, len(command)))].swapcase()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        schema.migrate(db)
        add(db, *commands)
        expected = [n for n, text in enumerate(commands, 1) if search.fold(needle) in search.fold(text)]
        assert found(db, needle) == expected
        search.add_next_jobs(db)
        add(db, *commands)
        both = expected + [len(commands) + n for n in expected]
        assert found(db, needle) == both
        search.add_next_jobs(db)
        assert found(db, needle) == both


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("ΐ")
@example("\u0345α")
def test_folding_is_done_once(text: str) -> None:
    """Folding is idempotent, and independent of the normalization form of its input."""
    folded = search.fold(text)
    assert search.fold(folded) == folded
    for form in ("NFC", "NFD"):
        assert search.fold(unicodedata.normalize(form, text)) == folded


@pytest.mark.sqlite
def test_a_rare_part_needs_few_looks(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only commands with the rarest trigram are candidates; without a rare one, a page ends all the same."""
    monkeypatch.setattr(search, "_RARE_LIMIT", 20)
    add(db, *(f"run {number:03} common" for number in range(100)))
    search.add_next_jobs(db)
    source = search.plan(db, "042 common")
    assert source is not None
    assert source[0].next_ids(db, 1000, 0, descending=False) == [43]
    source = search.plan(db, "common")
    assert source is not None
    assert len(source[0].next_ids(db, 1000, 0, descending=False)) == 100
    assert found(db, "042 COMMON") == [43]
    assert found(db, "n common") == []


@pytest.mark.sqlite
def test_what_is_deleted_leaves_the_index(db: sqlite3.Connection) -> None:
    """A deleted job's entries are removed; deleting one that is not indexed yet removes nothing."""
    add(db, "Обработать", "обработать всё")
    search.add_next_jobs(db)
    add(db, "обработать опять")
    for job_id in (1, 3):
        lifecycle.delete_job(db, job_id)
    assert entries(db, "обр") == [2]
    assert found(db, "обработать") == [2]
    db.execute("INSERT INTO search (search) VALUES ('integrity-check')")
    while search.add_next_jobs(db):
        pass
    lifecycle.delete_job(db, 2)
    assert entries(db, "обр") == []


@pytest.mark.heavy
@pytest.mark.sqlite
def test_the_index_does_not_grow_with_what_was_deleted(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs were deleted, merging in steps keeps the index about as large as that of the jobs left."""
    monkeypatch.setattr(search, "_MERGE_THRESHOLD", 100)
    monkeypatch.setattr(search, "_MERGE_PAGES", 2)

    def come(first: int) -> None:
        add(db, *(f"convert /srv/{number}.json {number * 7919 % 10_007}" for number in range(first, first + 500)))
        while search.add_next_jobs(db):
            pass

    def size() -> int:
        (size,) = db.execute("SELECT sum(length(block)) FROM search_data").fetchone()
        return int(size)

    come(0)
    fresh, steps = size(), 0
    for first in range(500, 5_000, 500):
        come(first)
        for job_id in range(first - 499, first + 1):
            lifecycle.delete_job(db, job_id)
        begun = search.merge(db, begun=False)
        while begun:
            begun = search.merge(db, begun=True)
            steps += 1
    assert steps > 20
    assert size() < 2 * fresh
    assert not search.merge(db, begun=False)
    assert found(db, "/srv/4999.JSON") == [5000]
    assert len(found(db, "convert")) == 500


@pytest.mark.sqlite
def test_steps_are_small(db: sqlite3.Connection) -> None:
    """One step indexes a few hundred short commands or one long one, so that other writes do not wait."""
    add(db, *["true"] * 1000)
    assert search.add_next_jobs(db)
    assert 100 <= len(entries(db, "tru")) <= 500
    while search.add_next_jobs(db):
        pass
    add(db, *["wide" * 30_000] * 3)
    for count in (1, 2, 3):
        assert search.add_next_jobs(db)
        assert len(entries(db, "wid")) == count
    assert not search.add_next_jobs(db)


async def searched(store: SqliteStore) -> int:
    return await store._engine.read(lambda db: int(db.execute(search.INDEXED_UP_TO).fetchone()[0]))


@pytest.mark.sqlite
async def test_the_index_follows_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New jobs are indexed without a request, also after a restart, and are found before they are."""
    monkeypatch.setattr(search, "_GATHER_DELAY", 0.01)
    async with opened(tmp_path) as store:
        for _ in range(3):
            await store.add(JobSpec(command="make"))
        await until(lambda: reached(store, 3))
        monkeypatch.setattr(search, "_GATHER_DELAY", 1000)
        await store.add(JobSpec(command="make love"))
        page = await store.page(Filters(text="make l"), (), limit=10)
        assert [job.id for job in page.jobs] == [4]
    monkeypatch.setattr(search, "_GATHER_DELAY", 0.01)
    async with opened(tmp_path) as store:
        await until(lambda: reached(store, 4))


async def reached(store: SqliteStore, job_id: int) -> bool:
    return await searched(store) == job_id


async def test_nothing_new_nothing_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The indexer is idle while there are no new jobs, and a failing history does not end it."""
    monkeypatch.setattr(search, "_GATHER_DELAY", 0)
    monkeypatch.setattr(search, "_STEP_DELAY", 0)
    outcomes: list[bool | None] = [False, None, False, True, True]  # the last first

    async def write(unit: UnitOfWork[bool]) -> bool:
        if unit is not search.add_next_jobs:
            return False
        outcome = outcomes.pop()
        if outcome is None:
            raise StoreUnavailable("the disk is full")
        return outcome

    indexer = search.Indexer(write)
    task = asyncio.create_task(indexer.run())
    await until(lambda: len(outcomes) == 2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(outcomes) == 2
    indexer.job_added()
    await until(lambda: not outcomes)
    assert not task.done()
    task.cancel()
