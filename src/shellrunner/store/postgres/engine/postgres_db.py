"""A psycopg connection as the units of work see it: `store.db.Db`.

Used on the connection's own thread. Knows the dialect; must not know jobs, or when a transaction begins and ends.

Each answer that is waited for costs a turn of two processes, which on a busy machine is more than most statements.
So what nobody reads (`Unread`, BEGIN) is sent with the statement that follows it, and COMMIT with what precedes it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.adapt import Loader
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.types.numeric import Int8Dumper

from shellrunner.store.db import Cursor
from shellrunner.store.postgres.engine.dialect import BinaryResult, Native, Unread, may_write, translate

_PREPARED: Final = 256  # statements that a connection keeps prepared
_PREPARE_AFTER: Final = 2  # executions

Connection = psycopg.Connection[TupleRow]


class _WholeNumberLoader(Loader):
    """Loads `numeric`, which only sums of whole numbers are here."""

    def load(self, data: bytes | bytearray | memoryview) -> int:
        return int(bytes(data))


def adapt(connection: Connection) -> None:
    """Have values be sent and read as the units expect them."""
    # One type for each whole number: else each size would make another prepared statement.
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_loader("numeric", _WholeNumberLoader)
    connection.prepare_threshold = _PREPARE_AFTER
    connection.prepared_max = _PREPARED


class PostgresDb:
    """The `Db` of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._gathers = False  # from `begin` to `commit`: else each statement is sent at once
        self._unsent: list[tuple[str, Any]] = []
        self.has_written = False  # any row, since this was set to false

    @property
    def has_begun(self) -> bool:
        """Whether the next statement belongs to a transaction that was begun, and has not failed."""
        return bool(self._unsent) or self._connection.pgconn.transaction_status == TransactionStatus.INTRANS

    def begin(self, statement: str = "BEGIN") -> None:
        """Begin a transaction, with its first statement; what was not sent of another one is forgotten."""
        self._gathers, self._unsent = True, [(statement, None)]

    def commit(
        self, meanwhile: Callable[[], object] | None = None, then: tuple[str, Sequence[Any]] | None = None
    ) -> str | None:
        """Send COMMIT, call `meanwhile` while the server commits, and return its answer once both are done.

        `then`: a statement that is sent behind COMMIT, so that it is executed at once; if it fails, nothing follows.
        """
        committed, self._gathers = self._connection.cursor(), False
        try:
            with self._pipeline():
                self._send_unsent()
                committed.execute("COMMIT")
                if then is not None:
                    self._connection.execute(*then)
                if meanwhile is not None:
                    meanwhile()
        except psycopg.Error:
            if committed.statusmessage != "COMMIT":
                raise
        return committed.statusmessage

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """Execute one statement; of one that is `Unread`, the outcome is not known yet."""
        values: Any
        if isinstance(sql, Native):
            text, values = str(sql), {f"p{number}": value for number, value in enumerate(parameters, 1)}
            writes = may_write(sql)
        else:
            statement = translate(sql)
            writes = statement.may_write
            text, values = statement.sql, statement.adapt(parameters) if statement.adapt is not None else parameters
        if self._gathers and isinstance(sql, Unread):
            self._unsent.append((text, values))
            self.has_written |= writes
            return self._connection.cursor()
        cursor = self._execute(text, values, is_binary=isinstance(sql, BinaryResult))
        if writes and (cursor.rowcount != 0 or text.startswith("WITH")):
            self.has_written = True
        return cursor

    def _execute(self, sql: str, values: Any, *, is_binary: bool) -> psycopg.Cursor[TupleRow]:
        if not self._unsent:
            return self._connection.execute(sql, values, binary=is_binary)
        with self._pipeline():
            self._send_unsent()
            return self._connection.execute(sql, values, binary=is_binary)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Cursor:
        """Execute one statement for each tuple of parameters, of which there may be none."""
        cursor = self._connection.cursor()
        if rows := list(parameters):
            self.has_written = True
            with self._pipeline():
                self._send_unsent()
                cursor.executemany(translate(sql).sql, rows)
        return cursor

    @contextmanager
    def _pipeline(self) -> Iterator[None]:
        """Send what is executed in the block without waiting for answers; of several errors, raise the first."""
        first: psycopg.Error | None = None
        try:
            with self._connection.pipeline():
                try:
                    yield
                except psycopg.Error as error:
                    first = error
        except psycopg.Error as error:
            first = first or error
        if first is not None:
            raise first

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        for sql, values in unsent:
            self._connection.execute(sql, values)
