"""Which done jobs retention removes first.

Units for the writer. Must not know limits.
"""

from typing import Final

from shellrunner.clock import Millis
from shellrunner.store.db import Db
from shellrunner.store.values import HistorySize

OLDEST: Final = """SELECT id, completed FROM jobs INDEXED BY jobs_completed
    WHERE state = 'done' ORDER BY completed, id LIMIT ?"""
IN_FUTURE: Final = """SELECT id, completed FROM jobs INDEXED BY jobs_completed
    WHERE state = 'done' AND completed > ? ORDER BY completed, id LIMIT ?"""
_DONE: Final = "SELECT count(*), coalesce(sum(stdout_bytes + stderr_bytes), 0) FROM jobs WHERE state = 'done'"
# Earlier attempts count once their job is done, as its last one does. They are few, so each looks up its job.
_EARLIER: Final = """SELECT coalesce(sum(attempts.stdout_bytes + attempts.stderr_bytes), 0)
    FROM attempts CROSS JOIN jobs ON jobs.id = job WHERE state = 'done'"""
_CLOCK_SKEW: Final = 60_000  # milliseconds by which the clock may be corrected without being called set back


def measure(db: Db) -> HistorySize:
    """Count the done jobs and their output, by reading the whole table."""
    jobs, last = db.execute(_DONE).fetchone()
    (earlier,) = db.execute(_EARLIER).fetchone()
    return HistorySize(jobs, last + earlier)


def oldest(db: Db, limit: int, oldest_kept: float, now: Millis) -> list[tuple[int, Millis]]:
    """Return the ids of the jobs that ended first and when, as far as that is known."""
    found: list[tuple[int, Millis]] = db.execute(OLDEST, (limit,)).fetchall()
    in_future = db.execute(IN_FUTURE, (now + _CLOCK_SKEW, limit)).fetchall()
    if not in_future:
        return found
    # The clock was set back: a job that ends now has an earlier time than those that ended before, and would be
    # removed as soon as it is recorded. So among the jobs that are not too old, the id decides.
    return sorted({*found, *in_future}, key=lambda job: (job[1] >= oldest_kept, job[0]))[:limit]
