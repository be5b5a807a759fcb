"""Completion callbacks as rows: which results are to be sent when, and the outcome of each try.

Units of the store; the sending is in the package `callbacks`. Must not know HTTP, or how a result is sent.
"""

import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Delivery
from shellrunner.store import rows
from shellrunner.store.db import Db, Row
from shellrunner.store.values import DueCallback

DUE: Final = """SELECT job, tries, since FROM callbacks INDEXED BY callbacks_due
    WHERE due IS NOT NULL AND due <= ? AND host NOT IN (SELECT value FROM json_each(?)) ORDER BY due LIMIT ?"""
NEXT: Final = "SELECT min(due) FROM callbacks INDEXED BY callbacks_due WHERE due IS NOT NULL"
JOB_ENDED: Final = "UPDATE callbacks SET since = ?, due = ? WHERE job = ?"
_TRIED: Final = """UPDATE callbacks SET state = ?, tries = tries + 1, due = ?, error = ?
    WHERE job = ? AND state = 'pending'"""


def add(db: Db, job_id: int, host: str) -> None:
    """Add the callback of a job that was accepted; it is due once the job is done."""
    db.execute("INSERT INTO callbacks (job, host, state) VALUES (?, ?, ?)", (job_id, host, Delivery.PENDING))


def job_ended(db: Db, job_id: int) -> None:
    """Make the job's callback due, if it has one: from the time of this record, however long ago the job ended."""
    now = now_ms()
    db.execute(JOB_ENDED, (now, now, job_id))


def due(db: Db, now: Millis, limit: int, skip_hosts: Collection[str]) -> list[DueCallback]:
    """Return the callbacks that are due, the longest due first, except to these hosts."""
    return to_due(db, db.execute(DUE, (now, json.dumps([*skip_hosts]), limit)).fetchall())


def to_due(db: Db, callbacks: Iterable[Row]) -> list[DueCallback]:
    """Return the callbacks of these rows: job, tries, since."""
    found: list[DueCallback] = []
    for job, tries, since in callbacks:
        with suppress(StoreUnavailable):  # a damaged row must not hold up the others
            found.append(DueCallback(rows.job(db, job), tries, since))
    return found


def next_due(db: Db) -> Millis | None:
    """Return when the next callback is due."""
    (moment,) = db.execute(NEXT).fetchone()
    return None if moment is None else int(moment)


def record_try(db: Db, job_id: int, error: str | None, retry_at: Millis | None) -> Delivery | None:
    """Record a try and return its outcome; None if the job was deleted."""
    state = Delivery.DELIVERED if error is None else Delivery.FAILED if retry_at is None else Delivery.PENDING
    tried = db.execute(_TRIED, (state, retry_at if error is not None else None, error, job_id))
    return state if tried.rowcount > 0 else None
