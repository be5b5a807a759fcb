"""A psycopg connection as the units of work see it: `store.db.Db`.

Used on the connection's own thread. Knows the dialect, and COMMIT; must not know jobs, or what is in a transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.adapt import Loader
from psycopg.rows import TupleRow
from psycopg.types.numeric import Int8Dumper

from shellrunner.store.db import Cursor
from shellrunner.store.postgres.engine.dialect import BinaryResult, Native, Unread, may_write, translate

_PREPARED: Final = 256  # statements that a connection keeps prepared
_PREPARE_AFTER: Final = 2  # executions

Connection = psycopg.Connection[TupleRow]
_Cursor = psycopg.Cursor[TupleRow]


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
        self.has_written = False  # any row, since this was set to false
        self._unsent: list[tuple[_Cursor, str, Any]] | None = None  # only where `commit` will send it

    def begin(self) -> None:
        """Begin a transaction that `commit` ends; what an earlier one has not sent, it did not commit."""
        self._unsent = []
        self._connection.execute("BEGIN")

    def commit(
        self, meanwhile: Callable[[], object] | None = None, then: tuple[str, Sequence[Any]] | None = None
    ) -> str | None:
        """Send COMMIT, call `meanwhile` while the server commits, and return its answer once both are done.

        `then`: a statement that is sent behind COMMIT, so that it is executed at once; if it fails, nothing follows.
        """
        if meanwhile is None and then is None:  # a pipeline costs more than the turn that it saves
            self._send()
            return self._connection.execute("COMMIT").statusmessage
        committed = self._connection.cursor()
        try:
            with self._pipeline():
                self._send()
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
        """Execute one statement."""
        values: Any
        if isinstance(sql, Native):
            text, values = str(sql), {f"p{number}": value for number, value in enumerate(parameters, 1)}
            writes = may_write(sql)
        else:
            statement = translate(sql)
            writes = statement.may_write
            text, values = statement.sql, statement.adapt(parameters) if statement.adapt is not None else parameters
        if isinstance(sql, Unread) and self._unsent is not None:
            cursor = self._connection.cursor()
            self._unsent.append((cursor, text, values))
            self.has_written = True
            return cursor
        self._send()
        cursor = self._connection.execute(text, values, binary=isinstance(sql, BinaryResult))
        if writes and (cursor.rowcount != 0 or text.startswith("WITH")):
            self.has_written = True
        return cursor

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Cursor:
        """Execute one statement for each tuple of parameters, of which there may be none."""
        self._send()
        cursor = self._connection.cursor()
        if rows := list(parameters):
            self.has_written = True
            cursor.executemany(translate(sql).sql, rows)
        return cursor

    def _send(self) -> None:
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            for cursor, text, values in unsent:
                cursor.execute(text, values)

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
            self._forget_prepared()
            raise first

    def _forget_prepared(self) -> None:
        """Have all statements be prepared again, after an error in a pipeline.

        The server skips what was sent behind the error. A statement that was to be prepared there counts as prepared
        all the same (psycopg 3.3), so that it would fail for as long as the connection lasts.
        """
        self._connection._prepared.clear()  # noqa: SLF001
