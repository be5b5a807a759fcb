"""Which queues are paused, as rows: kept across restarts.

A history that was copied or restored is held: all queues are paused, and there is a reason (`held` in `meta`) until
an admin resumes all, or one after the other. Units for the writer. Must not know jobs.
"""

import json
from collections.abc import Iterable
from typing import Final

from shellrunner.clock import Millis
from shellrunner.store.db import Db
from shellrunner.store.queues import ALL_QUEUES, Hold, Pauses

_SET_HELD: Final = "UPDATE meta SET value = ? WHERE key = 'held'"
_ADD: Final = "INSERT INTO paused (queue) VALUES (?) ON CONFLICT (queue) DO NOTHING"


def read(db: Db) -> Pauses:
    """Return the paused queues; `ALL_QUEUES` stands for the whole service, including queues that do not exist yet."""
    return Pauses(frozenset(queue for (queue,) in db.execute("SELECT queue FROM paused")), _read_hold(db))


def hold(db: Db, reason: str, now: Millis) -> None:
    """Pause everything, for this reason, unless it is held already."""
    db.execute(_ADD, (ALL_QUEUES,))
    if _read_hold(db) is None:
        db.execute(_SET_HELD, (json.dumps({"reason": reason, "since": now}),))


def change(db: Db, names: Iterable[str], queue: str | None, *, paused: bool) -> Pauses:
    """Pause or resume one of the queues in `names` (None: all of them); return what is paused then.

    Decides on whether `ALL_QUEUES` is among the rows: a back end with several writers locks the table first.
    """
    before = read(db)
    all_paused = ALL_QUEUES in before.queues
    if before.held and queue is None and not paused:  # queues that were paused before the hold stay paused
        db.execute("DELETE FROM paused WHERE queue = ?", (ALL_QUEUES,))
        return _release(db)
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
    return _release_if_none(db)


def forget(db: Db, queue: str) -> Pauses:
    """Forget the pause of a queue that is removed; return what is paused then."""
    db.execute("DELETE FROM paused WHERE queue = ?", (queue,))
    return _release_if_none(db)


def _release_if_none(db: Db) -> Pauses:
    """Release a held history of which no queue is paused any more."""
    now = read(db)
    return _release(db) if now.held and not now.queues else now


def _release(db: Db) -> Pauses:
    db.execute(_SET_HELD, ("",))
    return read(db)


def _read_hold(db: Db) -> Hold | None:
    row = db.execute("SELECT value FROM meta WHERE key = 'held'").fetchone()
    if not row or not row[0]:
        return None
    content = json.loads(row[0])
    return Hold(content["reason"], content["since"])
