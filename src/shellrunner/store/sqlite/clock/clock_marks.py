"""What the history keeps of the clocks, and times that are delays: both follow when the wall clock is set.

Units for the writer. `start_at` is not a delay: it is a time of the wall clock, whatever that is set to. Must not
know how a change of the clock is noticed.
"""

from typing import Final

from shellrunner.clock import Millis
from shellrunner.store.components.seen_time import ClockMark
from shellrunner.store.db import Db

_WRITE: Final = """INSERT INTO meta (key, value) VALUES ('clock', ?)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
NEWEST: Final = (
    "SELECT completed FROM jobs INDEXED BY jobs_completed WHERE state = 'done' ORDER BY completed DESC LIMIT 1"
)
# `state != 'done'` is the condition of the index.
SHIFT_RETRIES: Final = """UPDATE jobs INDEXED BY jobs_undone SET due = due + ?
    WHERE state = 'waiting' AND state != 'done' AND attempt > 1 AND due IS NOT NULL"""
_SHIFT_CALLBACKS: Final = "UPDATE callbacks SET due = due + ?, since = since + ? WHERE due IS NOT NULL"
# A retry is never due later than its delay. Its spec is as it was sent, without defaults.
LIMIT_RETRIES: Final = """UPDATE jobs INDEXED BY jobs_undone SET due = ? + CAST(
        coalesce(json_extract(CASE WHEN json_valid(spec) THEN spec END, '$.retries.delay'), 0) * 1000 AS INTEGER)
    WHERE state = 'waiting' AND state != 'done' AND attempt > 1 AND due > ? + CAST(
        coalesce(json_extract(CASE WHEN json_valid(spec) THEN spec END, '$.retries.delay'), 0) * 1000 AS INTEGER)"""
_LIMIT_CALLBACKS: Final = "UPDATE callbacks SET due = ? WHERE due > ?"
_MAX_CALLBACK_DELAY: Final = 3_600_000  # milliseconds, of `callbacks.sender`


def read(db: Db) -> ClockMark | None:
    """Return the last mark; None if there is none."""
    row = db.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
    return None if row is None else ClockMark.parse(row[0])


def write(db: Db, mark: ClockMark) -> None:
    """Write the mark."""
    db.execute(_WRITE, (mark.format(),))


def newest(db: Db) -> Millis | None:
    """Return when the last job ended; None if none has."""
    row = db.execute(NEWEST).fetchone()
    return None if row is None else int(row[0])


def shift_delays(db: Db, by: Millis) -> None:
    """Let retries, and tries of callbacks, be due when they would have been had the clock not been set."""
    db.execute(SHIFT_RETRIES, (by,))
    db.execute(_SHIFT_CALLBACKS, (by, by))


def limit_delays(db: Db, now: Millis) -> None:
    """Let none of them be due later than its delay from now: after a boot it is not known how the clock was set."""
    db.execute(LIMIT_RETRIES, (now, now))
    db.execute(_LIMIT_CALLBACKS, (now, now + _MAX_CALLBACK_DELAY))
