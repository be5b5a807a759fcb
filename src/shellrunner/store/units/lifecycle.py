"""The lifecycle of a job as SQL: finish, requeue, cancel and delete.

Units for the writer: each is whole in one transaction, can be run again after a rollback, refuses before it writes,
and returns the transitions that it made. Must not know files, notifications or connections.
"""

from typing import Final

from shellrunner.clock import Millis
from shellrunner.errors import AlreadyDone, NoResultYet, NotDone, ResultGone
from shellrunner.keeper.slot import ENTRY_SIZE, INDEX_CAPACITY
from shellrunner.model import End, Ending, Job, State, Volume
from shellrunner.store import rows
from shellrunner.store.columns import EndRow, columns, placeholders
from shellrunner.store.db import Db, check_changed
from shellrunner.store.output import Head
from shellrunner.store.query import search
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import dependents
from shellrunner.store.units.dependents import SET_DONE, earlier_stored
from shellrunner.store.units.locks import LockedJob, find_locked, locked

# ruff: noqa: S608  every statement here is put together from constants of this program

_HELD: Final = "WHERE id = ? AND state = 'running' AND token = ?"
_ENDED: Final = f"{_HELD} RETURNING queue, submitter, has_dependents, attempt"
END: Final = f"{SET_DONE}, token = NULL {_ENDED}"
END_SPILLED: Final = f"{SET_DONE} {_ENDED}"  # the token is in the names of its files
_REQUEUE: Final = f"UPDATE jobs SET state = 'queued', keeper = NULL, token = NULL, claimed = NULL {_HELD}"
_NEXT_ATTEMPT: Final = f"""UPDATE jobs SET state = ?, due = ?, attempt = attempt + 1, keeper = NULL, token = NULL,
    claimed = NULL {_HELD}"""
ADD_ATTEMPT: Final = f"""INSERT INTO attempts (job, number, entries, data, token, {columns(EndRow)})
    VALUES (?, ?, ?, ?, ?, {placeholders(EndRow)})"""
_COUNT_ATTEMPT: Final = "UPDATE jobs SET attempt = attempt + 1 WHERE id = ? AND attempt = ? AND state != 'done'"
_EARLIER_TOKENS: Final = "SELECT token FROM attempts WHERE job = ? ORDER BY number"
_FULL_INDEX: Final = INDEX_CAPACITY * ENTRY_SIZE  # bytes of an index that fills its place in the slot
_CANCEL: Final = "UPDATE jobs SET cancelling = 1 WHERE id = ? AND state = 'running'"
_CANCEL_BY_KILL: Final = "UPDATE jobs SET cancelling = 1, kill_only = 1 WHERE id = ? AND state = 'running'"
_DELETE: Final = "DELETE FROM jobs WHERE id = ? AND state = 'done'"
_DELETE_RESULT: Final = """UPDATE jobs SET stdout_bytes = NULL, stderr_bytes = NULL, stdout_dropped = NULL,
    stderr_dropped = NULL, cpu_user = NULL, cpu_system = NULL, max_rss_bytes = NULL, leftovers = NULL,
    leftovers_count = NULL WHERE id = ? AND state = 'done'"""


def finish(
    db: Db,
    job_id: int,
    token: str,
    *,
    end: End,
    volume: Volume,
    head: Head,
    next_attempt_at: Millis | None = None,
    now: Millis | None = None,
) -> Transitions:
    """Record the end, with all consequences; return no transition if the job is not running under this token.

    `now`: by the clock of due times, if the end's own times are by another one.
    """
    now = end.completed if now is None else now
    if next_attempt_at is not None:
        job = find_locked(db, job_id)
        if job is not None and job.is_held_by(token) and not job.cancelling:
            kept = token if _has_files(end, volume, head) else None
            attempt = (job_id, job.attempt, head.index, head.data, kept, *EndRow.from_end(end, volume))
            db.execute(ADD_ATTEMPT, attempt)
            is_due = next_attempt_at <= now
            state, due = (State.QUEUED, None) if is_due else (State.WAITING, next_attempt_at)
            check_changed(db.execute(_NEXT_ATTEMPT, (state, due, job_id, token)))
            return [Transition(job_id, job.queue, job.submitter, State.RUNNING, state, due=due)]
    return _end(db, job_id, token, end=end, volume=volume, head=head, now=now)


def _end(db: Db, job_id: int, token: str, *, end: End, volume: Volume, head: Head, now: Millis) -> Transitions:
    statement = END_SPILLED if _has_files(end, volume, head) else END
    found = db.execute(statement, (*EndRow.from_end(end, volume), job_id, token)).fetchall()
    if not found:
        return []
    queue, submitter, has_dependents, attempt = found[0]
    if head.data or head.index:
        db.execute("INSERT INTO outputs (job, entries, data) VALUES (?, ?, ?)", (job_id, head.index, head.data))
    size = volume.stored + (earlier_stored(db, job_id) if attempt > 1 else 0)
    ended = Transition(
        job_id, queue, submitter, State.RUNNING, State.DONE, size, bool(has_dependents), ending=end.ending
    )
    return [ended, *dependents.apply_end(db, job_id, end, now)] if has_dependents else [ended]


def _has_files(end: End, volume: Volume, head: Head) -> bool:
    """Return whether the attempt may have spilled; a lost one may have stored more than is known."""
    return end.ending is Ending.LOST or volume.stored > len(head.data) or len(head.index) >= _FULL_INDEX


def add_lost_attempt(db: Db, job_id: int, attempt: int, end: End) -> None:
    """Record an attempt that the history does not know of a job that waits or is queued; the next one follows."""
    db.execute(ADD_ATTEMPT, (job_id, attempt, b"", b"", None, *EndRow.from_end(end, Volume())))
    check_changed(db.execute(_COUNT_ATTEMPT, (job_id, attempt)))


def requeue(db: Db, job_id: int, token: str, now: Millis) -> Transitions:
    """Put a claimed job back, or end it if its cancellation was requested.

    Return no transition if the job is not running under this token.
    """
    job = find_locked(db, job_id)
    if job is None or not job.is_held_by(token):
        return []
    if job.cancelling:
        return dependents.end_unstarted(db, job_id, End(Ending.CANCELLED, now))
    check_changed(db.execute(_REQUEUE, (job_id, token)))
    return [Transition(job_id, job.queue, job.submitter, State.RUNNING, State.QUEUED)]


def request_cancel(db: Db, job_id: int, now: Millis, *, kill_only: bool) -> tuple[Job, Transitions]:
    """End a job that has not started, or mark a running one; return it as it is then.

    `kill_only`: its command gets no TERM.

    Raises:
        NoSuchJob, AlreadyDone.
        StoreUnavailable: its row is damaged.
    """
    job = locked(db, job_id)
    if job.state is State.DONE:
        raise AlreadyDone(job_id)
    rows.job(db, job_id)  # refuse a damaged row before the write
    transitions = cancel_locked(db, job_id, job, now, kill_only=kill_only)
    return rows.job(db, job_id), transitions


def cancel_locked(db: Db, job_id: int, job: LockedJob, now: Millis, *, kill_only: bool) -> Transitions:
    """End this job, which is locked and not done, if it has not started; else mark it."""
    if job.state is not State.RUNNING:
        return dependents.end_unstarted(db, job_id, End(Ending.CANCELLED, now))
    check_changed(db.execute(_CANCEL_BY_KILL if kill_only else _CANCEL, (job_id,)))
    return [Transition(job_id, job.queue, job.submitter, State.RUNNING, State.RUNNING)]


def delete_job(db: Db, job_id: int) -> Transition:
    """Delete every row of a job that is done.

    Raises:
        NoSuchJob, NotDone.
    """
    job = locked(db, job_id)
    if job.state is not State.DONE:
        raise NotDone(job_id)
    size, tokens = job.stored, _tokens(db, job_id, job)
    check_changed(db.execute(_DELETE, (job_id,)))
    db.execute("DELETE FROM outputs WHERE job = ?", (job_id,))
    if job.attempt > 1:
        size = None if size is None else size + earlier_stored(db, job_id)
        db.execute("DELETE FROM attempts WHERE job = ?", (job_id,))
    dependents.delete_side_rows(db, job_id, job.spec)
    search.remove_job(db, job_id, job.text)
    return Transition(job_id, job.queue, job.submitter, State.DONE, None, size, tokens=tokens)


def delete_result(db: Db, job_id: int) -> Transition:
    """Delete the output and the figures of a job that is done.

    Raises:
        NoSuchJob, NoResultYet, ResultGone.
    """
    job = locked(db, job_id)
    if job.state is not State.DONE:
        raise NoResultYet(job_id)
    size = job.stored
    if size is None:
        raise ResultGone(job_id)
    tokens = _tokens(db, job_id, job)
    check_changed(db.execute(_DELETE_RESULT, (job_id,)))
    db.execute("DELETE FROM outputs WHERE job = ?", (job_id,))
    if job.attempt > 1:
        size += earlier_stored(db, job_id)
        db.execute("DELETE FROM attempts WHERE job = ?", (job_id,))
    return Transition(job_id, job.queue, job.submitter, State.DONE, State.DONE, size, tokens=tokens)


def _tokens(db: Db, job_id: int, job: LockedJob) -> tuple[str | None, ...]:
    earlier = db.execute(_EARLIER_TOKENS, (job_id,)).fetchall() if job.attempt > 1 else ()
    return (*(token for (token,) in earlier), job.token)


def write_mark(db: Db, mark: str) -> str:
    """Write a mark and return what is read back."""
    db.execute("UPDATE meta SET value = ? WHERE key = 'alive'", (mark,))
    (value,) = db.execute("SELECT value FROM meta WHERE key = 'alive'").fetchone()
    return str(value)
