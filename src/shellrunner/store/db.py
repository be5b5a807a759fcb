"""What a unit of work needs of a database: to execute statements and to read their rows.

Implemented by a connection of each back end; a `sqlite3.Connection` is one as it is. Must not know transactions,
which belong to the part that runs the units.

`units`, `query`, `rows` and `columns` are written against `Db`, and most of their SQL is standard. What is SQLite's
own in it, and has to be replaced for another back end:

- `INDEXED BY`, which pins the index of a statement, in `rows`, `query.index_scans`, and the units `admission`,
  `claiming`, `trimming`, `due_callbacks` and `idempotency_keys`: to be left out;
- `json_each(?)`, a list as one parameter, in `rows`, `query.walk` and `units.due_callbacks`: an array elsewhere; and
  `CROSS JOIN ... ON`, which fixes the order of a join, in `query.walk`;
- full-text search: all of `query.search` (FTS5's table `search`, its commands, `total_changes()`);
- the `?` of parameters, and the schema itself, which is in `sqlite.schema`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


class Cursor(Protocol):
    """The outcome of one statement."""

    @property
    def rowcount(self) -> int:
        """How many rows an UPDATE or a DELETE changed."""

    def fetchone(self) -> Any:
        """Return the next row as a tuple; None if there are no more."""

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the remaining rows."""


class Db(Protocol):
    """A database inside a transaction. Parameters are positional (`?`)."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Execute one statement."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Cursor:
        """Execute one statement for each tuple of parameters."""


# Runs inside one transaction. May be run again after a rollback, so it must have no other effects.
UnitOfWork = Callable[[Db], T]


class RowChangedError(Exception):
    """A row is not as it was when the unit decided on it: the unit must be run again.

    With one writer, as in SQLite, this cannot happen; it would be a bug.
    """


def check_changed(cursor: Cursor) -> None:
    """Check that a guarded write (`AND state = ...`) found its row.

    Raises:
        RowChangedError: it did not.
    """
    if cursor.rowcount != 1:
        raise RowChangedError
