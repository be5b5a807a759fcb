"""A psycopg connection as the units of work see it: `store.db.Db`.

Used on the connection's own thread. Knows the dialect; must not know transactions or jobs.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import psycopg
from psycopg.adapt import Loader
from psycopg.rows import TupleRow
from psycopg.types.numeric import Int8Dumper

from shellrunner.store.db import Cursor
from shellrunner.store.postgres.engine.dialect import BinaryResult, Native, translate

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

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """Execute one statement."""
        if isinstance(sql, Native):
            named = {f"p{number}": value for number, value in enumerate(parameters, 1)}
            return self._connection.execute(sql, named)
        statement = translate(sql)
        values = statement.adapt(parameters) if statement.adapt is not None else parameters
        return self._connection.execute(statement.sql, values, binary=isinstance(sql, BinaryResult))

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Cursor:
        """Execute one statement for each tuple of parameters, of which there may be none."""
        cursor = self._connection.cursor()
        if rows := list(parameters):
            cursor.executemany(translate(sql).sql, rows)
        return cursor
