"""The hop to aiosqlite's thread: the one place where private attributes of aiosqlite are used."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from shellrunner.store.sqlite.engine.db_thread import connect, open_reading, open_writing

pytestmark = pytest.mark.sqlite


async def test_a_function_runs_on_the_connections_own_thread_and_its_answer_comes_back(tmp_path: Path) -> None:
    """With this aiosqlite, a function gets a usable connection, always on one thread that is not the caller's."""
    async with connect(partial(open_writing, str(tmp_path / "h.db"), lambda _: None)) as connection:

        def where(db: sqlite3.Connection) -> tuple[int, int]:
            db.execute("CREATE TABLE IF NOT EXISTS t (x)")
            return threading.get_ident(), db.execute("SELECT 1").fetchone()[0]

        first, second = await connection.run(where), await connection.run(where)
    assert first == second
    assert first[1] == 1
    assert first[0] != threading.get_ident()


async def test_a_call_runs_on_the_same_thread_and_reports_to_the_event_loop(tmp_path: Path) -> None:
    """What is to follow a call is called on the loop's thread, with what the function raised."""
    async with connect(partial(open_writing, str(tmp_path / "h.db"), lambda _: None)) as connection:
        ours = await connection.run(lambda db: threading.get_ident())
        found: list[tuple[int, BaseException | None]] = []

        async def call(function: Callable[[sqlite3.Connection], object]) -> None:
            reported = asyncio.Event()

            def done(error: BaseException | None) -> None:
                found.append((threading.get_ident(), error))
                reported.set()

            connection.call(function, done)
            await asyncio.wait_for(reported.wait(), 5)

        await call(lambda db: found.append((threading.get_ident(), None)))
        await call(lambda db: db.execute("SELECT * FROM nowhere"))
        (there, _), (here, nothing), (_, raised) = found
        assert (there, here, nothing) == (ours, threading.get_ident(), None)
        assert isinstance(raised, sqlite3.OperationalError)


async def test_what_the_function_raises_comes_back(tmp_path: Path) -> None:
    """An exception of the function reaches the caller unchanged."""
    async with connect(partial(open_writing, str(tmp_path / "h.db"), lambda _: None)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await connection.run(lambda db: db.execute("SELECT * FROM nowhere"))


async def test_the_writer_is_durable_and_a_reader_only_reads(tmp_path: Path) -> None:
    """The writer is WAL with synchronous=FULL; a reader can neither write nor checkpoint by itself."""

    def asked(db: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "wal_autocheckpoint", "query_only")
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    path = str(tmp_path / "h.db")
    async with connect(partial(open_writing, path, lambda _: None)) as writing:
        assert await writing.run(asked) == ["wal", 2, 1000, 0]
        async with connect(partial(open_reading, path)) as reading:
            assert (await reading.run(asked))[2:] == [0, 1]


async def test_no_thread_is_left_when_opening_fails(tmp_path: Path) -> None:
    """A connection that cannot be opened leaves no thread behind."""
    before = set(threading.enumerate())
    with pytest.raises(sqlite3.OperationalError):
        async with connect(partial(open_reading, str(tmp_path / "nowhere" / "h.db"))):
            pass
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
