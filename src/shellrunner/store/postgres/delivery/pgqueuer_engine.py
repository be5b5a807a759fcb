"""Delivery by pgqueuer: its tables and its statements, in our transaction and on our connection.

Its own runner is not used: it redelivers jobs that run, and sleeps when its places are full. A row of its queue is a
job that is queued; its entry point is the line, its payload the job's id. The row goes with the claim, in one commit,
so nothing needs its heartbeats: that a host is alive is `hosts`' affair. Must not know claims.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID

from pgqueuer.adapters.persistence.qb import QueryQueueBuilder

from shellrunner.store.db import Db
from shellrunner.store.postgres.delivery import Delivered, QueuedJob
from shellrunner.store.postgres.engine.dialect import native
from shellrunner.store.queues import Line

_NO_ONE: Final = UUID(int=0)  # the manager of a row that is deleted in the same transaction
# It picks what was due before the transaction began: also if the clock of the database is set back meanwhile.
_AT_ONCE: Final = timedelta(days=-3650)
_STALE: Final = timedelta(days=3650)  # no row is picked when its transaction has ended
# All that is queued against all that is offered, which has no index by jobs. EXCEPT sorts or hashes both; a join may
# be planned row by row, when one of the tables is empty yet.
_LOST: Final = """SELECT jobs.id, queue, submitter, priority FROM jobs JOIN
    (SELECT convert_from(payload, 'UTF8')::bigint AS id FROM
        (SELECT to_json(ARRAY[queue, coalesce(submitter, '')])::text AS line, convert_to(id::text, 'UTF8') AS payload
        FROM jobs WHERE state = 'queued' AND greatest(created, coalesce(due, 0)) < ?
        EXCEPT SELECT entrypoint, payload FROM pgqueuer) AS missing
    ORDER BY id LIMIT 500) AS lost ON lost.id = jobs.id WHERE state = 'queued' ORDER BY jobs.id"""
# Only what nobody else has locked, so that nodes do not wait for each other. Each job is found by its id: as written,
# the state serves no index of queued jobs.
_FORGET_UNCLAIMABLE: Final = """DELETE FROM pgqueuer WHERE id IN (SELECT id FROM pgqueuer WHERE id = ANY(ARRAY(
    SELECT offer.id FROM unnest(?::text[]) AS line CROSS JOIN LATERAL (
        SELECT id, priority, payload FROM pgqueuer WHERE entrypoint = line AND status = 'queued'
        ORDER BY priority DESC, id LIMIT 5000) AS offer
    WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = convert_from(offer.payload, 'UTF8')::bigint
        AND state || '' = 'queued' AND priority = offer.priority
        AND to_json(ARRAY[queue, coalesce(submitter, '')])::text = line))) FOR UPDATE SKIP LOCKED)"""
# It has no index, and the writer reads all of it: so it is kept short.
_FORGET_LOG: Final = "DELETE FROM pgqueuer_log WHERE created < now() - interval '1 minute'"


@cache
def _builder() -> QueryQueueBuilder:
    return QueryQueueBuilder()


@cache
def _enqueue() -> str:
    return native(_builder().build_enqueue_query(), is_read=False)


@cache
def _log_job() -> str:
    return native(_builder().build_log_job_query(), is_read=False)


def entry_point(line: Line) -> str:
    """Return the name of a line."""
    return json.dumps([line.queue, line.submitter or ""], ensure_ascii=False, separators=(",", ":"))


class PgqueuerDelivery:
    """Jobs wait in pgqueuer's table."""

    def enqueue(self, db: Db, jobs: Sequence[QueuedJob]) -> None:
        """Add a row for each of these jobs."""
        count = len(jobs)
        parameters: tuple[Any, ...] = (
            [job.priority for job in jobs],
            [entry_point(job.line) for job in jobs],
            [str(job.job_id).encode() for job in jobs],
            [_AT_ONCE] * count,
            [None] * count,
            [None] * count,
        )
        db.execute(_enqueue(), parameters)

    def dequeue(self, db: Db, lines: Sequence[Line], limit: int) -> Sequence[Delivered]:
        """Pick the first rows of these lines."""
        query = _builder().build_dequeue_query(
            batch_size=limit,
            entrypoints=[entry_point(line) for line in lines],  # type: ignore[misc]
            concurrency_limits=[0] * len(lines),
            queue_manager_id=_NO_ONE,  # type: ignore[arg-type]
            global_concurrency_limit=None,
            heartbeat_timeout=_STALE,
        )
        sql = query.sql.replace("SELECT * FROM claimed", "SELECT id, payload, priority FROM claimed")
        cursor = db.execute(native(sql), query.args)
        return [Delivered(int(payload), handle, priority) for handle, payload, priority in cursor.fetchall()]

    def settle(self, db: Db, delivered: Sequence[Delivered]) -> None:
        """Delete their rows."""
        handles = [each.handle for each in delivered]
        db.execute(_log_job(), (handles, ["successful"] * len(handles), [None] * len(handles)))

    def forget_unclaimable(self, db: Db, lines: Sequence[Line]) -> None:
        """Delete their rows."""
        db.execute(_FORGET_UNCLAIMABLE, ([entry_point(line) for line in lines],))

    def find_lost(self, db: Db, older_than: int) -> Sequence[QueuedJob]:
        """Return jobs that have no row."""
        found = db.execute(_LOST, (older_than,)).fetchall()
        return [QueuedJob(job_id, Line(queue, submitter), priority) for job_id, queue, submitter, priority in found]

    def redeliver(self, db: Db, lost: Sequence[QueuedJob]) -> None:
        """Add rows for these jobs, and forget what the engine has logged, but for the last minute."""
        db.execute(_FORGET_LOG)
        if lost:
            self.enqueue(db, lost)
