"""One connection to PostgreSQL on a thread of its own, and the one way to call it: connected when it is needed.

Owned by a batch queue. Knows how a connection must be set up, and that one may be lost; must not know tables, units
or transactions.
"""

import asyncio
import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from shellrunner.store.postgres.engine.postgres_db import Connection, PostgresDb, adapt

T = TypeVar("T")

_ANSWER_TIMEOUT: Final = 15.0  # seconds for one batch: a PostgreSQL that hangs keeps its connections open
_CLOSE_TIMEOUT: Final = 4.0  # seconds for all that is left to do when the history is closed
_CONNECT_TIMEOUT: Final = 5  # seconds, for each address
_RECONNECT_DELAY: Final = 0.5  # seconds between two attempts; until then calls fail at once
_OPTIONS: Final[dict[str, Any]] = {
    "application_name": "shellrunner",
    "connect_timeout": _CONNECT_TIMEOUT,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds for which sent data may stay unacknowledged
    "client_encoding": "UTF8",
}
_SETTINGS: Final = """SET default_transaction_isolation = 'read committed'; SET synchronous_commit = on;
    SET idle_in_transaction_session_timeout = '30s'; SET lock_timeout = '10s'; SET jit = off; SET TimeZone = 'UTC';
    SET client_connection_check_interval = '2s'"""  # else what was given up goes on there, whatever that takes
_SETTINGS_WITHOUT_SYNC: Final = _SETTINGS.replace("synchronous_commit = on", "synchronous_commit = off")
# Planning pgqueuer's statements costs more than executing them. The one plan may be made while a table is empty yet,
# so it must not be one that reads all of it; nor all of a line, to sort it, where an index has the order.
_PLAN_ONCE: Final = """SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
    SET enable_bitmapscan = off"""

# Which server this is: another one, or one that went on from a copy, may have less than was confirmed here.
_NAMES: Final = """SELECT set_config('shellrunner.node', %s, false), set_config('shellrunner.server',
    (SELECT system_identifier FROM pg_control_system())::text || '/' ||
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), false)"""


def connect(
    url: str,
    node: str = "",
    *,
    syncs: bool = True,
    plans_once: bool = False,
    on_open: Callable[[Connection], object] = lambda _: None,
    **options: Any,
) -> Connection:
    """Connect in autocommit mode, so that transactions are those that are written here; for this node.

    `syncs`, `plans_once`: as in `PostgresThread`. `on_open` is called before the first statement, which may get no
    answer.

    Raises:
        psycopg.Error: it could not be connected; what `failures.describe` says of it has no password.
    """
    connection = psycopg.connect(url, autocommit=True, **{**_OPTIONS, **_choice_of_server(url), **options})
    try:
        on_open(connection)
        adapt(connection)
        connection.execute(_SETTINGS if syncs else _SETTINGS_WITHOUT_SYNC)
        if plans_once:
            connection.execute(_PLAN_ONCE)
        _refuse_replica(connection)
        connection.execute(_NAMES, [node])
    except BaseException:
        connection.close()
        raise
    return connection


def _choice_of_server(url: str) -> dict[str, str]:
    """Return options that have libpq choose, of several servers, the one that takes writes."""
    given = conninfo_to_dict(url)
    return {"target_session_attrs": "read-write"} if "," in str(given.get("host", "")) else {}


def _refuse_replica(connection: Connection) -> None:
    if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
        raise psycopg.OperationalError("the server is a replica, which takes no writes")


class PostgresThread:
    """A thread that runs functions of one connection, one after the other; it connects again after a loss."""

    def __init__(
        self,
        url: str,
        name: str,
        node: str = "",
        timeout: float = _ANSWER_TIMEOUT,
        *,
        syncs: bool = True,
        plans_once: bool = False,
    ) -> None:
        """Start the thread, under this name.

        Args:
            url: of the database.
            name: of the thread.
            node: whose connection it is.
            timeout: seconds for each call.
            syncs: a commit waits for the disk; else a crash of PostgreSQL may lose it.
            plans_once: one plan serves all values of a statement; each finds its rows by an index.
        """
        self._url, self._node, self._timeout = url, node, timeout
        self._options = {"syncs": syncs, "plans_once": plans_once}
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._opening: Connection | None = None  # it has not answered its first statements yet
        self._db: PostgresDb | None = None
        self._retry_at = 0.0
        self._failure: psycopg.Error | None = None
        self._last_moment: asyncio.TimerHandle | None = None
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def connection(self) -> Connection:
        """The connection, on its thread, while a function runs.

        Raises:
            psycopg.Error: there is none, and none could be made.
        """
        if self._connection is not None and self._connection.closed:
            self._connection = None
        if self._connection is None:
            if self._is_given_up:
                raise psycopg.OperationalError("the history is closed, and the database has not answered in time")
            if self._failure is not None and time.monotonic() < self._retry_at:
                raise self._failure
            try:
                self._connection = connect(self._url, self._node, on_open=self._opened, **self._options)
            except psycopg.Error as error:
                self._failure, self._retry_at = error, time.monotonic() + _RECONNECT_DELAY
                raise
            finally:
                self._opening = None
            self._failure, self._db = None, PostgresDb(self._connection)
        return self._connection

    @property
    def db(self) -> PostgresDb:
        """The same, as units take it."""
        if self._db is None or self._connection is None or self._connection.closed:
            self._db = PostgresDb(self.connection)
        return self._db

    def drop(self) -> None:
        """Close the connection, on its thread: the next use makes another one."""
        connection, self._connection, self._db = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def is_lost(self) -> bool:
        """Return whether there is no connection, on its thread."""
        return self._connection is None or self._connection.closed

    async def run(self, function: Callable[["PostgresThread"], T]) -> T:
        """Run the function on the thread; if the awaiter is cancelled, it runs all the same."""
        future: asyncio.Future[T] = self._loop.create_future()
        result: list[T] = []

        def done(error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result[0])

        self.call(lambda thread: result.append(function(thread)), done)
        return await future

    def call(
        self, function: Callable[["PostgresThread"], object], done: Callable[[BaseException | None], object]
    ) -> None:
        """Run the function on the thread, then `done` on the event loop's, with what it raised.

        After the timeout the connection is broken, so that what it waits for fails: the server does not answer. So is
        each further one that it makes, as often as that lasts.
        """

        def watch() -> None:
            self._break()
            watchdog[0] = self._loop.call_later(self._timeout, watch)

        watchdog: list[asyncio.TimerHandle] = [self._loop.call_later(self._timeout, watch)]

        def finished(error: BaseException | None) -> None:
            watchdog[0].cancel()
            done(error)

        def run() -> None:
            error = None
            try:
                function(self)
            except BaseException as raised:  # noqa: BLE001  `done` raises it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(finished, error)

        self._calls.put(run)

    def close_soon(self) -> None:
        """Have all that was called, and is called yet, end soon: if the server does not answer by then, it fails."""
        if self._last_moment is None:
            self._last_moment = self._loop.call_later(_CLOSE_TIMEOUT, self._give_up)

    def close(self) -> None:
        """End the thread after what was called, and close the connection; returns at once."""
        if self._last_moment is not None:
            self._last_moment.cancel()
        self._calls.put(None)

    def _opened(self, connection: Connection) -> None:
        self._opening = connection

    def _give_up(self) -> None:
        self._is_given_up = True
        self._break()

    def _break(self) -> None:
        """Shut the socket down, on the event loop's thread: the thread that waits for it gets an error."""
        connection = self._opening or self._connection
        if connection is None:
            return
        with (
            contextlib.suppress(psycopg.Error, OSError),
            socket.socket(fileno=os.dup(connection.pgconn.socket)) as broken,
        ):
            broken.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while (run := self._calls.get()) is not None:
            run()
        self.drop()
