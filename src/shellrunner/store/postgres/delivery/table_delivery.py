"""Delivery by the jobs themselves: the first rows of each line that nobody else has locked.

Must not know claims.
"""

from collections.abc import Sequence
from typing import Final

from shellrunner.store.db import Db
from shellrunner.store.postgres.delivery import Delivered, QueuedJob
from shellrunner.store.queues import Line

# Without a submitter and with one apart: only so both are found by `jobs_queued`, however many jobs are queued. After
# IS NULL, `submitter` has to be in the order for the planner to see that it is the index's.
_DEQUEUE: Final = """SELECT id FROM (
    SELECT job.id, job.priority FROM unnest(?::text[], ?::text[]) AS line (queue, submitter)
    CROSS JOIN LATERAL (
        SELECT * FROM (SELECT id, priority FROM jobs WHERE state = 'queued' AND queue = line.queue
            AND submitter IS NULL AND line.submitter = ''
            ORDER BY submitter, priority DESC, id LIMIT ? FOR UPDATE OF jobs SKIP LOCKED) AS of_nobody
        UNION ALL
        SELECT * FROM (SELECT id, priority FROM jobs WHERE state = 'queued' AND queue = line.queue
            AND submitter = line.submitter
            ORDER BY priority DESC, id LIMIT ? FOR UPDATE OF jobs SKIP LOCKED) AS of_one
    ) AS job) AS found
    ORDER BY priority DESC, id LIMIT ?"""


class TableDelivery:
    """Nothing is kept beside the jobs, so nothing can be lost."""

    def enqueue(self, db: Db, jobs: Sequence[QueuedJob]) -> None:
        """Do nothing: a queued row is an offer."""

    def dequeue(self, db: Db, lines: Sequence[Line], limit: int) -> Sequence[Delivered]:
        """Lock and return the first jobs of these lines."""
        queues, submitters = [line.queue for line in lines], [line.submitter or "" for line in lines]
        found = db.execute(_DEQUEUE, (queues, submitters, limit, limit, limit)).fetchall()
        return [Delivered(job_id, job_id) for (job_id,) in found]

    def settle(self, db: Db, delivered: Sequence[Delivered]) -> None:
        """Do nothing: the claim has changed the row."""

    def forget_unclaimable(self, db: Db, lines: Sequence[Line]) -> None:
        """Do nothing: such a job is not offered."""

    def find_lost(self, db: Db, older_than: int) -> Sequence[QueuedJob]:
        """Return none: see the class."""
        return ()

    def redeliver(self, db: Db, lost: Sequence[QueuedJob]) -> None:
        """Do nothing."""
