"""Which queues are paused, as rows: kept across restarts.

Units for the writer. Must not know jobs.
"""

from collections.abc import Iterable
from typing import Final

from shellrunner.store.db import Db
from shellrunner.store.queues import ALL_QUEUES

_ADD: Final = "INSERT INTO paused (queue) VALUES (?) ON CONFLICT (queue) DO NOTHING"


def read(db: Db) -> frozenset[str]:
    """Return the paused queues; `ALL_QUEUES` stands for the whole service, including queues that do not exist yet."""
    return frozenset(queue for (queue,) in db.execute("SELECT queue FROM paused"))


def change(db: Db, names: Iterable[str], queue: str | None, *, paused: bool) -> frozenset[str]:
    """Pause or resume one of the queues in `names` (None: all of them); return what is paused then.

    Decides on whether `ALL_QUEUES` is among the rows: a back end with several writers locks the table first.
    """
    all_paused = ALL_QUEUES in read(db)
    if queue is None:
        db.execute("DELETE FROM paused")
        if paused:
            db.execute(_ADD, (ALL_QUEUES,))
    elif paused:
        if not all_paused:
            db.execute(_ADD, (queue,))
    else:
        if all_paused:  # all others stay paused, each by itself
            db.executemany(_ADD, [(name,) for name in names])
        db.execute("DELETE FROM paused WHERE queue IN (?, ?)", (queue, ALL_QUEUES))
    return read(db)
