"""Which queues are paused, as rows: kept over restarts.

Units for the writer, used by the store. Must not know jobs.
"""

import sqlite3
from collections.abc import Iterable

from shellrunner.store.queues import ALL_QUEUES


def read(db: sqlite3.Connection) -> frozenset[str]:
    """The paused queues; `ALL_QUEUES` for the whole service, with queues that are yet to come."""
    return frozenset(queue for (queue,) in db.execute("SELECT queue FROM paused"))


def change(db: sqlite3.Connection, names: Iterable[str], queue: str | None, *, paused: bool) -> frozenset[str]:
    """Pause or resume one of the queues that there are (None: all of them); what is paused then."""
    before = read(db)
    if queue is None:
        after = frozenset({ALL_QUEUES}) if paused else frozenset()
    elif paused:
        after = before | ({queue} if ALL_QUEUES not in before else frozenset())
    else:
        after = (frozenset(names) if ALL_QUEUES in before else before) - {queue}
    db.execute("DELETE FROM paused")
    db.executemany("INSERT INTO paused VALUES (?)", [(name,) for name in after])
    return after
