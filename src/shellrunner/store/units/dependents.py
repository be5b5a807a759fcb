"""What follows from an end: jobs that waited for it start or are skipped, its callback comes due.

Units for the writer, part of the same commit as the end. Only jobs that somebody minds come here; all others end
at no further cost. Must not know files, bells or connections.
"""

import json
import sqlite3
from collections import deque
from typing import Any, Final

from shellrunner.clock import Millis
from shellrunner.model import End, Ending, State, Volume
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import due_callbacks

FIGURES: Final = """started, completed, ending, exit_code, signal, detail, duration,
    stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped, cpu_user, cpu_system, max_rss_bytes"""
DONE: Final = """UPDATE jobs SET state = 'done', keeper = NULL, token = NULL, cancelling = 0, secrets = NULL,
    due = NULL, awaits = 0, started = ?, completed = ?, ending = ?, exit_code = ?, signal = ?, detail = ?,
    duration = ?, stdout_bytes = ?, stderr_bytes = ?, stdout_dropped = ?, stderr_dropped = ?,
    cpu_user = ?, cpu_system = ?, max_rss_bytes = ? WHERE id = ?"""
_BEFORE: Final = "SELECT queue, state, minded, attempt FROM jobs WHERE id = ?"
ELSEWHERE: Final = "SELECT coalesce(sum(stdout_bytes + stderr_bytes), 0) FROM attempts WHERE job = ?"
# Who was skipped or cancelled meanwhile has left its rows here: a thousand that wait for a hundred each would have so
# many rows deleted one by one, all in the commit of the first that fails. They go with the ends of those hundred.
FOLLOWERS: Final = """SELECT job FROM dependencies CROSS JOIN jobs ON jobs.id = job
    WHERE after = ? AND state = 'waiting'"""
_ONE_LESS: Final = "UPDATE jobs SET awaits = awaits - 1 WHERE id = ? RETURNING awaits, due, queue"


def how(end: End, volume: Volume) -> tuple[Any, ...]:
    """An end and its volume as the values of `FIGURES`."""
    ended = (end.started, end.completed, end.ending.value, end.exit_code, end.signal, end.detail, end.duration)
    written = (volume.stdout_bytes, volume.stderr_bytes, volume.stdout_dropped, volume.stderr_dropped)
    used = end.usage
    return *ended, *written, *((used.cpu_user, used.cpu_system, used.max_rss_bytes) if used else (None, None, None))


def end_unstarted(db: sqlite3.Connection, job_id: int, end: End) -> Transitions:
    """Make a job done of which nothing was started (in this attempt), with all that follows."""
    move = _end(db, job_id, end)
    return [move, *of(db, job_id, end)] if move.has_followers else [move]


def of(db: sqlite3.Connection, job_id: int, end: End) -> Transitions:
    """What follows from the end of a job that somebody minds."""
    moves: Transitions = []
    ended = deque([(job_id, end)])
    while ended:
        first, its_end = ended.popleft()
        due_callbacks.ended(db, first)
        fine = its_end.ending is Ending.EXITED and its_end.exit_code == 0
        followers = [follower for (follower,) in db.execute(FOLLOWERS, (first,)).fetchall()]
        db.execute("DELETE FROM dependencies WHERE after = ?", (first,))
        for follower in followers:
            if fine:
                moves += _one_less(db, follower, its_end.completed)
            else:
                skipped = skipped_for(first, its_end.ending, its_end.exit_code, its_end.completed)
                moves.append(_end(db, follower, skipped))
                ended.append((follower, skipped))
    return moves


def skipped_for(after: int, ending: Ending, exit_code: int | None, now: Millis) -> End:
    """The end of a job that waited for another, which did not exit with 0."""
    with_code = f" with {exit_code}" if ending is Ending.EXITED else ""
    return End(Ending.SKIPPED, now, detail=f"it waited for job {after}, which ended as {ending.value}{with_code}")


def forget(db: sqlite3.Connection, job_id: int, spec: str) -> None:
    """Remove what a job has beside its row, by what its `spec` says."""
    try:
        asked = json.loads(spec)
        labels = [(key, value, job_id) for key, value in asked.get("labels", {}).items()]
        notify = asked.get("notify")
    except (ValueError, AttributeError):  # damaged: all is looked through, for it must not hold up what follows
        db.execute("DELETE FROM labels WHERE job = ?", (job_id,))
        labels, notify = [], True
    if labels:
        db.executemany("DELETE FROM labels WHERE key = ? AND value = ? AND job = ?", labels)
    if notify:
        db.execute("DELETE FROM callbacks WHERE job = ?", (job_id,))


def _end(db: sqlite3.Connection, job_id: int, end: End) -> Transition:
    queue, state, has_followers, attempt = db.execute(_BEFORE, (job_id,)).fetchone()
    db.execute(DONE, (*how(end, Volume()), job_id))
    size = elsewhere(db, job_id) if attempt > 1 else 0
    return Transition(
        job_id, queue, State(state), State.DONE, size, bool(has_followers), attempts=attempt, ending=end.ending
    )


def elsewhere(db: sqlite3.Connection, job_id: int) -> int:
    """How much output the earlier attempts have."""
    (stored,) = db.execute(ELSEWHERE, (job_id,)).fetchone()
    return int(stored)


def _one_less(db: sqlite3.Connection, job_id: int, now: Millis) -> Transitions:
    awaits, due, queue = db.execute(_ONE_LESS, (job_id,)).fetchall()[0]
    if awaits:
        return []
    if due is not None and due > now:
        return [Transition(job_id, queue, State.WAITING, State.WAITING, due=due)]
    db.execute("UPDATE jobs SET state = 'queued', due = ? WHERE id = ?", (now, job_id))
    return [Transition(job_id, queue, State.WAITING, State.QUEUED)]
