"""Completion callbacks as rows: which results are to be sent when, and what came of it.

Units for the store's lanes. Must not know HTTP, or how a result is sent.
"""

import json
import sqlite3
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Delivery
from shellrunner.store import DueCallback
from shellrunner.store.units import rows

DUE: Final = """SELECT job, tries, since FROM callbacks INDEXED BY callbacks_due
    WHERE due IS NOT NULL AND due <= ? AND host NOT IN (SELECT value FROM json_each(?)) ORDER BY due LIMIT ?"""
NEXT: Final = "SELECT min(due) FROM callbacks INDEXED BY callbacks_due WHERE due IS NOT NULL"


def expect(db: sqlite3.Connection, job_id: int, host: str) -> None:
    """A job was accepted whose result is to be sent there."""
    db.execute("INSERT INTO callbacks (job, host, state) VALUES (?, ?, ?)", (job_id, host, Delivery.PENDING))


def ended(db: sqlite3.Connection, job_id: int) -> None:
    """The job is recorded as done, however long ago it ended: from now on its callback is due, if it has one."""
    now = now_ms()
    db.execute("UPDATE callbacks SET since = ?, due = ? WHERE job = ?", (now, now, job_id))


def due(db: sqlite3.Connection, now: Millis, limit: int, skip_hosts: Collection[str]) -> list[DueCallback]:
    """What is to be sent now, the longest due first, but nothing to these hosts."""
    found: list[DueCallback] = []
    for job, tries, since in db.execute(DUE, (now, json.dumps([*skip_hosts]), limit)).fetchall():
        with suppress(StoreUnavailable):  # one that is damaged must not hold up the others
            found.append(DueCallback(rows.job(db, job), tries, since))
    return found


def upcoming(db: sqlite3.Connection) -> Millis | None:
    """When the next one is due."""
    (moment,) = db.execute(NEXT).fetchone()
    return None if moment is None else int(moment)


def tried(db: sqlite3.Connection, job_id: int, error: str | None, retry_at: Millis | None) -> Delivery | None:
    """Record a try, and say what came of it; None if the job is gone."""
    state = Delivery.DELIVERED if error is None else Delivery.FAILED if retry_at is None else Delivery.PENDING
    words = "UPDATE callbacks SET state = ?, tries = tries + 1, due = ?, error = ? WHERE job = ?"
    known = db.execute(words, (state, retry_at if error is not None else None, error, job_id)).rowcount > 0
    return state if known else None
