"""Short reads on the event loop's own thread: the hop to another thread costs several times what they do.

Owned by the engine. Nothing here may wait, because everybody else would wait too: the connection has no busy timeout,
each transaction ends within the call, so that it never holds up a checkpoint, and the caller knows that the pages are
in memory (`point_reads`). Must not know jobs.
"""

import sqlite3
from typing import TypeVar

from shellrunner.store.db import UnitOfWork
from shellrunner.store.sqlite.engine.batch_reader import roll_back

T = TypeVar("T")


class LoopReader:
    """A reading connection of the event loop's thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def run(self, unit: UnitOfWork[T]) -> T:
        """Run the unit in a transaction of its own, which sees the last commit.

        Raises:
            sqlite3.Error, MemoryError: SQLite failed, or would have had to wait.
        """
        db = self._db
        if db.in_transaction:  # one that could not be ended sees an earlier state
            roll_back(db)
        db.execute("BEGIN")
        try:
            return unit(db)
        finally:
            roll_back(db)
