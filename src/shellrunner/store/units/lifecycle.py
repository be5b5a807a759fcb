"""The writes: each is a unit for the writer, whole in one transaction, re-runnable, refusing before it writes.

Used by the store. Knows the job's legal transitions as SQL, and tells each that it made; must not know files, bells
or connections. What follows from an end is `aftermath`'s.
"""

import sqlite3
from dataclasses import replace
from typing import Any

from shellrunner.clock import Millis
from shellrunner.errors import AlreadyDone, NoResultYet, NoSuchJob, NotDone, ResultGone
from shellrunner.model import Done, End, Ending, Job, Running, State, Volume
from shellrunner.store import Head
from shellrunner.store.query import search
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import dependents, rows
from shellrunner.store.units.dependents import how

# ruff: noqa: S608  every statement here is put together from constants of this program

CLAIM_THIS = f"""UPDATE jobs SET state = 'running', keeper = ?, token = ?, started = ? WHERE id = ?
    RETURNING queue, {rows.CLAIM}"""
HEAD = """SELECT priority, id FROM jobs INDEXED BY jobs_queued WHERE state = 'queued' AND queue = ?
    ORDER BY priority DESC, id LIMIT 1"""
END = f"{dependents.DONE} AND state = 'running' AND token = ? RETURNING queue, minded, attempt"
_HOLDS = "SELECT cancelling, queue, attempt FROM jobs WHERE id = ? AND token = ? AND state = 'running'"
_REQUEUE = "UPDATE jobs SET state = 'queued', keeper = NULL, token = NULL, started = NULL WHERE id = ?"
_REPEAT = """UPDATE jobs SET state = ?, due = ?, attempt = attempt + 1, keeper = NULL, token = NULL,
    started = NULL WHERE id = ?"""
_KEEP = f"""INSERT INTO attempts (job, number, entries, data, {dependents.FIGURES})
    VALUES (?, ?, ?, ?, {", ".join("?" * 14)})"""
STATE = "SELECT state, stdout_bytes + stderr_bytes, queue, attempt, command, spec FROM jobs WHERE id = ?"
OLDEST = """SELECT id, completed FROM jobs INDEXED BY jobs_completed
    WHERE state = 'done' ORDER BY completed, id LIMIT ?"""
AHEAD = """SELECT id, completed FROM jobs INDEXED BY jobs_completed
    WHERE state = 'done' AND completed > ? ORDER BY completed, id LIMIT ?"""
_FORGET = """UPDATE jobs SET stdout_bytes = NULL, stderr_bytes = NULL, stdout_dropped = NULL, stderr_dropped = NULL,
    cpu_user = NULL, cpu_system = NULL, max_rss_bytes = NULL WHERE id = ?"""


def claim_next(
    db: sqlite3.Connection, queues: list[str], keeper: int, token: str, now: Millis
) -> tuple[str, rows.Row] | None:
    """Claim the first job of these queues: its queue and its `rows.CLAIM`, or None if they are empty."""
    heads = [head for queue in queues if (head := db.execute(HEAD, (queue,)).fetchone()) is not None]
    if not heads:
        return None
    _, first = min(heads, key=lambda head: (-head[0], head[1]))
    queue, *row = db.execute(CLAIM_THIS, (keeper, token, now, first)).fetchall()[0]
    return queue, tuple(row)


def finish(
    db: sqlite3.Connection,
    job_id: int,
    token: str,
    *,
    end: End,
    volume: Volume,
    head: Head,
    next_attempt_at: Millis | None = None,
) -> Transitions:
    """Record the end, and what follows from it; nothing if the job is not running under this token."""
    if next_attempt_at is not None:
        held = db.execute(_HOLDS, (job_id, token)).fetchone()
        if held is not None and not held[0]:
            _, queue, attempt = held
            db.execute(_KEEP, (job_id, attempt, head.index, head.data, *how(end, volume)))
            late = next_attempt_at <= end.completed  # at once: there is nothing to wait for
            state, due = (State.QUEUED, None) if late else (State.WAITING, next_attempt_at)
            db.execute(_REPEAT, (state, due, job_id))
            return [Transition(job_id, queue, State.RUNNING, state, due=due)]
    found = db.execute(END, (*how(end, volume), job_id, token)).fetchall()
    if not found:
        return []
    queue, has_followers, attempt = found[0]
    if head.data or head.index:
        db.execute("INSERT INTO outputs VALUES (?, ?, ?)", (job_id, head.index, head.data))
    done = Transition(job_id, queue, State.RUNNING, State.DONE, volume.stored, bool(has_followers), attempts=attempt)
    move = done._replace(ending=end.ending)
    if attempt > 1:
        move = move._replace(size=volume.stored + dependents.elsewhere(db, job_id))
    return [move, *dependents.of(db, job_id, end)] if has_followers else [move]


def requeue(db: sqlite3.Connection, job_id: int, token: str, now: Millis) -> Transitions:
    """Put a claim back: queued again, or done if its end was asked for; nothing if not running under this token."""
    held = db.execute(_HOLDS, (job_id, token)).fetchone()
    if held is None:
        return []
    cancelling, queue, attempt = held
    if cancelling:
        return dependents.end_unstarted(db, job_id, End(Ending.CANCELLED, now))
    db.execute(_REQUEUE, (job_id,))
    return [Transition(job_id, queue, State.RUNNING, State.QUEUED, attempts=attempt)]


def request_cancel(db: sqlite3.Connection, job_id: int, now: Millis) -> tuple[Job, Transitions]:
    """End a job that has not started, or note the wish at a running one (which is no move).

    Raises:
        NoSuchJob, AlreadyDone.
    """
    job = rows.job(db, job_id)
    if isinstance(job.phase, Done):
        raise AlreadyDone(job_id)
    if isinstance(job.phase, Running):
        db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ?", (job_id,))
        return replace(job, phase=replace(job.phase, cancelling=True)), []
    moves = dependents.end_unstarted(db, job_id, End(Ending.CANCELLED, now))
    return rows.job(db, job_id), moves


def delete_job(db: sqlite3.Connection, job_id: int) -> Transition:
    """Remove a job that is done with all that is its own.

    Raises:
        NoSuchJob, NotDone.
    """
    state, *_ = _state(db, job_id)
    if state is not State.DONE:
        raise NotDone(job_id)
    return remove(db, job_id)


def delete_result(db: sqlite3.Connection, job_id: int) -> tuple[int, int]:
    """Remove the result of a job that is done; how much output it had, and how many attempts.

    Raises:
        NoSuchJob, NoResultYet, ResultGone.
    """
    state, stored, _, attempts, *_ = _state(db, job_id)
    if state is not State.DONE:
        raise NoResultYet(job_id)
    if stored is None:
        raise ResultGone(job_id)
    if attempts > 1:
        stored += dependents.elsewhere(db, job_id)
        db.execute("DELETE FROM attempts WHERE job = ?", (job_id,))
    db.execute(_FORGET, (job_id,))
    db.execute("DELETE FROM outputs WHERE job = ?", (job_id,))
    return stored, attempts


def remove(db: sqlite3.Connection, job_id: int) -> Transition:
    """Remove every row of a job that is done."""
    _, stored, queue, attempts, command, spec = _state(db, job_id)
    if attempts > 1:
        stored = None if stored is None else stored + dependents.elsewhere(db, job_id)
        db.execute("DELETE FROM attempts WHERE job = ?", (job_id,))
    dependents.forget(db, job_id, spec)
    search.remove_job(db, job_id, command)
    db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
    db.execute("DELETE FROM outputs WHERE job = ?", (job_id,))
    return Transition(job_id, queue, State.DONE, None, stored, attempts=attempts)


def state_of(db: sqlite3.Connection, job_id: int) -> State | None:
    """Where a job stands; None if there is none."""
    row = db.execute(STATE, (job_id,)).fetchone()
    return State(row[0]) if row else None


def touch(db: sqlite3.Connection, mark: str) -> str:
    """Write a mark and read it back."""
    db.execute("UPDATE meta SET value = ? WHERE key = 'alive'", (mark,))
    (value,) = db.execute("SELECT value FROM meta WHERE key = 'alive'").fetchone()
    return str(value)


def _state(db: sqlite3.Connection, job_id: int) -> tuple[State, Any, str, int, str, str]:
    row = db.execute(STATE, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    return State(row[0]), *row[1:]
