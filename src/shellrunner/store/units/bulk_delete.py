"""Deleting many jobs, a batch in each commit.

Units of the store; `query.selection` has the jobs.
"""

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from shellrunner.model import State
from shellrunner.store.db import Db
from shellrunner.store.transition import Transitions
from shellrunner.store.units import lifecycle
from shellrunner.store.units.locks import find_locked
from shellrunner.store.values import DeleteCount

STATES: Final = "SELECT state FROM jobs WHERE id IN (SELECT value FROM json_each(?))"


def preview(db: Db, job_ids: Sequence[int]) -> DeleteCount:
    """Return how many of these jobs are done, and how many are not."""
    states = [state for (state,) in db.execute(STATES, (json.dumps([*job_ids]),)).fetchall()]
    done = states.count(State.DONE)
    return DeleteCount(done, len(states) - done)


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
