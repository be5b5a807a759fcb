"""Deleting many jobs: which match, in pages from the newest on, and the deletion of each page.

Units of the store. Jobs that are accepted while the pages are read do not match.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from shellrunner.model import State
from shellrunner.model.filters import Filters
from shellrunner.store.db import Db
from shellrunner.store.pagination import Position
from shellrunner.store.query import listing
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle
from shellrunner.store.units.locks import find_locked
from shellrunner.store.values import DeleteCount

BATCH_SIZE = 100  # jobs that are deleted in one commit
NEWEST: Final = "SELECT coalesce(max(id), 0) FROM jobs"


def newest(db: Db) -> int:
    """Return the highest id of all jobs."""
    (job_id,) = db.execute(NEWEST).fetchone()
    return int(job_id)


def matching(db: Db, filters: Filters, up_to: int, after: Position | None) -> tuple[list[int], Position | None]:
    """Return some of the matching jobs up to this id, and where the next page begins."""
    order = listing.scan_order(filters)
    positions, following = listing.positions(db, filters, order, limit=BATCH_SIZE, after=after)
    job_ids = (int(position[-1] or 0) for position in positions)
    # If the clock was set back, new jobs appear among the old ones.
    return [job_id for job_id in job_ids if job_id <= up_to], following


def preview(db: Db, job_ids: Sequence[int]) -> DeleteCount:
    """Return how many of these jobs are done, and how many are not."""
    jobs = [job for job_id in job_ids if (job := find_locked(db, job_id)) is not None]
    done = sum(job.state is State.DONE for job in jobs)
    return DeleteCount(done, len(jobs) - done)


class Deleted(NamedTuple):
    """Which of some jobs were deleted, and how many were left because they are not done."""

    job_ids: list[int]
    not_done: int
    transitions: Transitions


def delete(db: Db, job_ids: Sequence[int]) -> Deleted:
    """Delete those of these jobs that are done."""
    jobs = [(job_id, job) for job_id in job_ids if (job := find_locked(db, job_id)) is not None]
    done = [job_id for job_id, job in jobs if job.state is State.DONE]
    return Deleted(done, len(jobs) - len(done), [lifecycle.delete_job(db, job_id) for job_id in done])
