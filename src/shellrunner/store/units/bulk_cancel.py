"""Cancelling many jobs, a batch in each commit.

Units of the store; `query.selection` has the jobs.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from shellrunner.clock import Millis
from shellrunner.model import State
from shellrunner.store.db import Db
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle
from shellrunner.store.units.locks import find_locked


class Cancelled(NamedTuple):
    """Which of some jobs were cancelled, or are being cancelled."""

    job_ids: list[int]
    transitions: Transitions


def cancel(db: Db, job_ids: Sequence[int], now: Millis, *, states: Collection[State], kill_only: bool) -> Cancelled:
    """Request the end of those of these jobs that are in one of these states; see `lifecycle.request_cancel`."""
    cancelled = Cancelled([], [])
    for job_id in job_ids:
        job = find_locked(db, job_id)
        if job is not None and job.state in states:  # it may have been skipped, as one of the others was cancelled
            cancelled.job_ids.append(job_id)
            cancelled.transitions.extend(lifecycle.cancel_locked(db, job_id, job, now, kill_only=kill_only))
    return cancelled
