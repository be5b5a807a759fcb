"""Consequences of an ending: dependent jobs are queued or skipped, a callback becomes due.

Units for the writer, parts of the commit that records the ending. Only jobs with dependents come here; all others end
at no further cost. Must not know files, notifications or connections.
"""

import json
from collections import deque
from typing import Final

from shellrunner.clock import Millis
from shellrunner.model import End, Ending, State, Volume
from shellrunner.store.columns import EndRow, assignments
from shellrunner.store.db import Db, check_changed
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import due_callbacks
from shellrunner.store.units.locks import LockedJob, find_locked, locked

# ruff: noqa: S608  every statement here is put together from constants of this program

SET_DONE: Final = f"""UPDATE jobs SET state = 'done', keeper = NULL, claimed = NULL, cancelling = 0,
    secrets = NULL, due = NULL, awaits = 0, {assignments(EndRow)}"""
_END_UNSTARTED: Final = f"{SET_DONE}, token = NULL WHERE id = ? AND state = ?"
EARLIER_STORED: Final = "SELECT coalesce(sum(stdout_bytes + stderr_bytes), 0) FROM attempts WHERE job = ?"
# A job that was skipped or cancelled meanwhile has left its rows in `dependencies`: if a thousand jobs waited for a
# hundred each, their rows would be deleted one by one, all in the commit of the first failure. They are deleted with
# the ends of those hundred. A subquery, not a join, so that it is always `dependencies` that is read first.
DEPENDENTS: Final = """SELECT job FROM dependencies
    WHERE after = ? AND (SELECT state FROM jobs WHERE id = dependencies.job) = 'waiting'"""
# Those from which this transaction has taken a prerequisite: another one may be changing what a job waits for.
_RELEASE: Final = "DELETE FROM dependencies WHERE after = ? RETURNING job"
_COUNT_DOWN: Final = """UPDATE jobs SET awaits = awaits - 1 WHERE id = ? AND state = 'waiting'
    RETURNING awaits, due, queue, submitter"""
_QUEUE: Final = "UPDATE jobs SET state = 'queued', due = ? WHERE id = ? AND state = 'waiting'"


def end_unstarted(db: Db, job_id: int, end: End) -> Transitions:
    """End a job of which nothing was started (in this attempt), with all consequences."""
    ended = _end(db, job_id, locked(db, job_id), end)
    return [ended, *apply_end(db, job_id, end, end.completed)] if ended.has_dependents else [ended]


def apply_end(db: Db, job_id: int, end: End, now: Millis) -> Transitions:
    """Apply the consequences of an ended job: queue or skip its dependents, schedule its callback.

    `now`: by the clock of due times.
    """
    transitions: Transitions = []
    ended = deque([(job_id, end)])
    while ended:
        first, its_end = ended.popleft()
        due_callbacks.job_ended(db, first)
        succeeded = its_end.ending is Ending.EXITED and its_end.exit_code == 0
        waiting = [dependent for (dependent,) in db.execute(DEPENDENTS, (first,)).fetchall()]
        released = {dependent for (dependent,) in db.execute(_RELEASE, (first,)).fetchall()}
        for dependent in waiting:
            if dependent not in released:
                continue
            if succeeded:
                transitions += _count_down(db, dependent, now)
                continue
            job = find_locked(db, dependent)
            if job is not None and job.state is State.WAITING:  # else another writer has ended it meanwhile
                skipped = skipped_end(first, its_end.ending, its_end.exit_code, its_end.completed)
                transitions.append(_end(db, dependent, job, skipped))
                ended.append((dependent, skipped))
    return transitions


def skipped_end(after: int, ending: Ending, exit_code: int | None, now: Millis) -> End:
    """Return the end of a job that waited for another one, which did not exit with 0."""
    with_code = f" with {exit_code}" if ending is Ending.EXITED else ""
    return End(Ending.SKIPPED, now, detail=f"it waited for job {after}, which ended as {ending.value}{with_code}")


def delete_side_rows(db: Db, job_id: int, spec: str) -> None:
    """Delete a job's labels and its callback, if its `spec` has any."""
    try:
        asked = json.loads(spec)
        labels = [(key, value, job_id) for key, value in asked.get("labels", {}).items()]
        notify = asked.get("notify")
    except (ValueError, AttributeError):  # damaged: scan all labels, as it must not hold up what follows
        db.execute("DELETE FROM labels WHERE job = ?", (job_id,))
        labels, notify = [], True
    if labels:
        db.executemany("DELETE FROM labels WHERE key = ? AND value = ? AND job = ?", labels)
    if notify:
        db.execute("DELETE FROM callbacks WHERE job = ?", (job_id,))


def earlier_stored(db: Db, job_id: int) -> int:
    """Return how many bytes of output the earlier attempts wrote."""
    (stored,) = db.execute(EARLIER_STORED, (job_id,)).fetchone()
    return int(stored)


def _end(db: Db, job_id: int, job: LockedJob, end: End) -> Transition:
    check_changed(db.execute(_END_UNSTARTED, (*EndRow.from_end(end, Volume()), job_id, job.state.value)))
    return Transition(
        job_id,
        job.queue,
        job.submitter,
        job.state,
        State.DONE,
        size=earlier_stored(db, job_id) if job.attempt > 1 else 0,
        has_dependents=bool(job.has_dependents),
        ending=end.ending,
    )


def _count_down(db: Db, job_id: int, now: Millis) -> Transitions:
    """One of the jobs for which this one waits has succeeded."""
    rows = db.execute(_COUNT_DOWN, (job_id,)).fetchall()
    if not rows:  # it was cancelled by another writer
        return []
    awaits, due, queue, submitter = rows[0]
    if awaits:
        return []
    if due is not None and due > now:
        return [Transition(job_id, queue, submitter, State.WAITING, State.WAITING, due=due)]
    check_changed(db.execute(_QUEUE, (now, job_id)))
    return [Transition(job_id, queue, submitter, State.WAITING, State.QUEUED)]
