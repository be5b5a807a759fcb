"""Batches of reads, and what SQLite's errors mean to the callers of the store.

Owned by the engine. Knows transactions; must not know jobs.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from shellrunner.errors import NoSpace, StoreUnavailable
from shellrunner.store.components.batch_queue import WorkItem

SQLITE_FAILURES: Final = (sqlite3.Error, MemoryError)  # the latter is SQLITE_NOMEM


class BatchReader:
    """Runs each batch of reads in one transaction, which sees one state of the history."""

    def execute(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> None:
        """Run every unit; one that fails does not affect the others."""
        roll_back(db)  # a transaction that could not be ended sees an earlier state
        for item in batch:
            try:
                if not db.in_transaction:
                    db.execute("BEGIN")
                item.value = item.unit(db)
            except Exception as error:  # noqa: BLE001  # each caller gets its own, the queue goes on
                item.error = translate_error(error, "read")
        roll_back(db)


def roll_back(db: sqlite3.Connection) -> None:
    """End the transaction if one is open; if that fails, the next batch tries again before it begins its own."""
    with suppress(*SQLITE_FAILURES):
        if db.in_transaction:
            db.rollback()


def translate_error(error: Exception, action: str) -> Exception:
    """Return the error as callers may see it: SQLite's own never leave the store."""
    if not isinstance(error, SQLITE_FAILURES):
        return error
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
        return NoSpace()
    return StoreUnavailable(f"the history cannot be {action}: {str(error) or 'out of memory'}")
