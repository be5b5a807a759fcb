"""One SQLite connection on the thread that aiosqlite keeps for it, and the one way to call it.

Owned by a batch queue. Knows how a connection must be set up; must not know tables, jobs or batches.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import aiosqlite

T = TypeVar("T")

_WAL_SIZE_LIMIT = 16 * 1024 * 1024  # bytes that a long log keeps
_BOTH = "PRAGMA busy_timeout=5000; PRAGMA temp_store=MEMORY;"
# SQLite before 3.51.3 can corrupt a WAL if two connections write or checkpoint, so only the writing one does either.
# `secure_delete=FAST` overwrites deleted secrets wherever that costs no further page.
_WRITING = (
    f"{_BOTH} PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=1000;"
    f"PRAGMA journal_size_limit={_WAL_SIZE_LIMIT}; PRAGMA secure_delete=FAST;"
)
_READING = f"{_BOTH} PRAGMA wal_autocheckpoint=0; PRAGMA query_only=ON;"
_IMPATIENT = f"{_READING} PRAGMA busy_timeout=0;"


def open_writing(path: str, examine: Callable[[sqlite3.Connection], object]) -> sqlite3.Connection:
    """Open the one connection that may write and checkpoint; `examine` reads the file before anything changes it."""
    return _open(path, examine, _WRITING)


def open_reading(path: str, *, waits: bool = True) -> sqlite3.Connection:
    """Open a connection that cannot write; it must be closed before the writing one.

    Without `waits` it fails, once it is open, where it would have to wait for another connection.
    """
    return _open(path, lambda _: None, _READING) if waits else _open(path, _read_schema, _IMPATIENT)


def open_snapshot(path: str) -> sqlite3.Connection:
    """Open a reading connection that sees what is committed now, until it is closed.

    It is not bound to the thread that opens it; only one may use it at a time.
    """
    db = _open(path, lambda _: None, _READING, any_thread=True)
    try:
        db.execute("BEGIN")
        _read_schema(db)  # a transaction begins with its first statement
    except BaseException:
        db.close()
        raise
    return db


def _read_schema(db: sqlite3.Connection) -> None:
    # SQLite does it before the first statement, which by then must not wait.
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _open(
    path: str, examine: Callable[[sqlite3.Connection], object], settings: str, *, any_thread: bool = False
) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=not any_thread)
    try:
        examine(db)
        db.executescript(settings)
    except BaseException:
        db.close()
        raise
    return db


class DbThread:
    """A thread that runs functions of one `sqlite3.Connection`, one after the other.

    aiosqlite offers this for single statements only, and one call to the thread per statement costs more than the
    statement. Its `_execute` and `_tx` are used only here; tests/store/test_store_connection.py guards them.
    """

    def __init__(self, connection: aiosqlite.Connection, db: sqlite3.Connection) -> None:
        self._connection = connection
        self._db = db
        self._loop = asyncio.get_running_loop()

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run the function on the connection's thread; if the awaiter is cancelled, it runs all the same."""
        result: T = await self._connection._execute(function, self._db)  # type: ignore[no-untyped-call] # noqa: SLF001
        return result

    def call(
        self, function: Callable[[sqlite3.Connection], object], done: Callable[[BaseException | None], object]
    ) -> None:
        """Run the function on the connection's thread, then `done` on the event loop's, with what it raised.

        For what runs with every commit: awaiting `run` takes two more turns of the loop.
        """

        def run() -> None:
            error = None
            try:
                function(self._db)
            except BaseException as raised:  # noqa: BLE001  `done` raises it
                error = raised
            self._loop.call_soon_threadsafe(done, error)

        self._connection._tx.put_nowait((None, run))  # noqa: SLF001


@asynccontextmanager
async def connect(
    open_db: Callable[[], sqlite3.Connection], interrupt: Callable[[], None] = lambda: None
) -> AsyncIterator[DbThread]:
    """Call `open_db` on a thread of its own, and close what it opened there at the end.

    If this is cancelled meanwhile, `interrupt` is called, and `open_db` is to return or to raise soon.
    """
    opened: list[sqlite3.Connection] = []
    failed: list[Exception] = []

    def connector() -> sqlite3.Connection:
        # A connector that raises leaves aiosqlite's thread to end by itself, which it may do after the loop has.
        try:
            opened.append(open_db())
        except Exception as error:  # noqa: BLE001  # raised below
            failed.append(error)
            opened.append(sqlite3.connect(":memory:"))
        return opened[0]

    opening = asyncio.ensure_future(aiosqlite.Connection(connector, iter_chunk_size=64).__aenter__())
    try:
        connection = await asyncio.shield(opening)
    except asyncio.CancelledError:
        interrupt()
        # The thread must not outlive the loop, nor the history's lock.
        await (await opening).close()
        raise
    try:
        if failed:
            raise failed[0]
        yield DbThread(connection, opened[0])
    finally:
        await connection.close()
