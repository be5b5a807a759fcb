"""Units that raise after they have written: nothing of them is committed, in both back ends, and all of the rest."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shellrunner.errors import NoSuchJob
from shellrunner.store.components.batch_queue import WorkItem
from shellrunner.store.db import Db
from tests.support import nodes
from tests.support.histories import opened

INSERT = "INSERT INTO paused (queue) VALUES (?)"
RENAME = "UPDATE paused SET queue = queue || ? WHERE queue = ?"


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Yield a store of each back end."""
    if request.param == "sqlite":
        async with opened(tmp_path) as single:
            yield single
    else:
        with nodes.cluster(tmp_path) as cluster:
            async with cluster.node("one") as node:
                yield node


def write(db: Db, name: str) -> None:
    """Write a row, in one of the ways in which units do."""
    if len(name) % 2:
        db.executemany(INSERT, [(name,)])
    else:
        db.execute(INSERT, (name,))


def unit(kind: str, name: str) -> Callable[[Db], str]:
    """Return a unit of a kind, which raises what has its name."""

    def run(db: Db) -> str:
        if kind == "refuses":
            db.execute(RENAME, ("x", "of no row"))  # which writes nothing
            raise NoSuchJob(int(name))
        write(db, name)
        if kind == "refuses late":
            raise NoSuchJob(int(name))
        if kind == "fails late":
            raise ZeroDivisionError(name)
        return name

    return run


def label(outcome: object) -> str:
    """Return what a caller got, in a form that can be compared."""
    return outcome if isinstance(outcome, str) else f"{type(outcome).__name__} {outcome}"


def expected(kind: str, name: str) -> str:
    """Return what the caller of such a unit is to get."""
    if kind == "succeeds":
        return name
    return label(NoSuchJob(int(name)) if "refuses" in kind else ZeroDivisionError(name))


async def test_a_unit_that_raises_leaves_nothing_whatever_else_is_in_its_batch(store: Any, seed: int) -> None:
    """Of batches of any kinds in any order exactly those that succeed are committed, and each caller gets its own."""
    chance, names = random.Random(seed), iter(map(str, range(1, 10_000)))
    kept: set[str] = set()
    for _ in range(30):
        kinds = chance.choices(
            ["succeeds", "refuses", "refuses late", "fails late"], [5, 2, 1, 1], k=chance.randrange(1, 9)
        )
        units = [(kind, next(names)) for kind in kinds]
        submitted = [store._engine.writes.submit(WorkItem(unit(*each))) for each in units]
        outcomes = await asyncio.gather(*submitted, return_exceptions=True)
        assert [label(each) for each in outcomes] == [expected(*each) for each in units]
        kept |= {name for kind, name in units if kind == "succeeds"}
    rows = await store._engine.read(lambda db: db.execute("SELECT queue FROM paused").fetchall())
    assert {name for (name,) in rows} == kept


async def test_a_refusal_before_a_write_costs_the_others_nothing(store: Any) -> None:
    """They run once; only after a write is everything rolled back, and run again one by one."""
    for kind, runs in (("refuses", 1), ("refuses late", 2)):
        ran: list[str] = []

        def counted(kind: str, name: str, ran: list[str]) -> Callable[[Db], str]:
            def run(db: Db) -> str:
                ran.append(name)
                return unit(kind, name)(db)

            return run

        units = [("succeeds", f"{runs}1"), (kind, "7"), ("succeeds", f"{runs}2")]
        submitted = [store._engine.writes.submit(WorkItem(counted(*each, ran))) for each in units]
        await asyncio.gather(*submitted, return_exceptions=True)
        assert ran.count(f"{runs}1") == runs
