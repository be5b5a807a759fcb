"""The limits of queues that were set at run time, as rows: kept across restarts.

A row is for a queue that config does not name, or stands in place of config's limits. Units for the writer.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from shellrunner.errors import QueueNotEmpty
from shellrunner.store.db import Db
from shellrunner.store.queues import Pauses, QueueLimit
from shellrunner.store.units import queue_pauses

_READ: Final = "SELECT name, max_running, max_queued FROM queues"
_SET: Final = """INSERT INTO queues (name, max_running, max_queued) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET max_running = excluded.max_running, max_queued = excluded.max_queued"""
_REMOVE: Final = "DELETE FROM queues WHERE name = ?"
UNDONE: Final = "SELECT 1 FROM jobs INDEXED BY jobs_undone WHERE state != 'done' AND queue = ? LIMIT 1"


class Removed(NamedTuple):
    """What is left after a queue was removed."""

    limits: Mapping[str, QueueLimit]
    pauses: Pauses


def read(db: Db) -> dict[str, QueueLimit]:
    """Return the limits that were set, by queue."""
    return {name: QueueLimit(*limits) for name, *limits in db.execute(_READ)}


def change(db: Db, queue: str, limit: QueueLimit | None) -> dict[str, QueueLimit]:
    """Set the limits of a queue (None: to those of config); return all that are set then."""
    db.execute(_REMOVE, (queue,)) if limit is None else db.execute(_SET, (queue, *limit))
    return read(db)


def remove(db: Db, queue: str) -> Removed:
    """Remove a queue that config does not name, and its pause.

    Raises:
        QueueNotEmpty: a job of it is not done.
    """
    if db.execute(UNDONE, (queue,)).fetchone() is not None:
        raise QueueNotEmpty(queue)
    return Removed(change(db, queue, None), queue_pauses.forget(db, queue))
