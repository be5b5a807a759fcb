"""The writes: each is a unit for the writer, whole in one transaction, re-runnable, refusing before it writes.

Used by the store. Knows the job's legal transitions as SQL; must not know files, bells or connections.
"""

import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from shellrunner.errors import AlreadyDone, NoResultYet, NoSuchJob, NotDone, ResultGone
from shellrunner.model import Done, End, Ending, Job, Millis, Running, State, Volume
from shellrunner.store import Head, rows

ADD = """INSERT INTO jobs (state, priority, created, command, spec, secrets, started, keeper, token)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
CLAIM_NEXT = f"""UPDATE jobs SET state = 'running', keeper = ?, token = ?, started = ?
    WHERE id = (SELECT id FROM jobs INDEXED BY jobs_queued WHERE state = 'queued' ORDER BY priority DESC, id LIMIT 1)
    RETURNING {rows.CLAIM}"""  # noqa: S608  # from constants
_DONE = """UPDATE jobs SET state = 'done', keeper = NULL, token = NULL, cancelling = 0, secrets = NULL,
    started = ?, completed = ?, ending = ?, exit_code = ?, signal = ?, detail = ?, duration = ?,
    stdout_bytes = ?, stderr_bytes = ?, stdout_dropped = ?, stderr_dropped = ?,
    cpu_user = ?, cpu_system = ?, max_rss_bytes = ? WHERE id = ?"""
END = f"{_DONE} AND state = 'running' AND token = ?"
_REQUEUE = "UPDATE jobs SET state = 'queued', keeper = NULL, token = NULL, started = NULL WHERE id = ?"
_HOLDS = "SELECT cancelling FROM jobs WHERE id = ? AND token = ? AND state = 'running'"
STATE = "SELECT state, stdout_bytes + stderr_bytes FROM jobs WHERE id = ?"
OLDEST = """SELECT id, completed, coalesce(stdout_bytes + stderr_bytes, 0) FROM jobs INDEXED BY jobs_completed
    WHERE state = 'done' ORDER BY completed, id LIMIT ?"""
_FORGET = """UPDATE jobs SET stdout_bytes = NULL, stderr_bytes = NULL, stdout_dropped = NULL, stderr_dropped = NULL,
    cpu_user = NULL, cpu_system = NULL, max_rss_bytes = NULL WHERE id = ?"""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job as it goes into its row: what is shown, and apart from it what is secret."""

    priority: int
    created: Millis
    command: str
    spec: str
    secrets: str | None


def add(db: sqlite3.Connection, job: Accepted, owner: tuple[int, str] | None = None) -> int:
    """Put the job into the queue, or at once into the hands of its owner (keeper, token); its id."""
    row = (job.priority, job.created, job.command, job.spec, job.secrets)
    whose = ("queued", *row, None, None, None) if owner is None else ("running", *row, job.created, *owner)
    job_id = db.execute(ADD, whose).lastrowid
    assert job_id is not None  # noqa: S101  # an INSERT into a rowid table has one
    return job_id


def claim_next(db: sqlite3.Connection, keeper: int, token: str, now: Millis) -> rows.Row | None:
    """Claim the first of the queue; its `rows.CLAIM`, or None if the queue is empty."""
    found: list[rows.Row] = db.execute(CLAIM_NEXT, (keeper, token, now)).fetchall()
    return found[0] if found else None


def finish(db: sqlite3.Connection, job_id: int, token: str, *, end: End, volume: Volume, head: Head) -> bool:
    """Record the end; false if the job is not running under this token."""
    if db.execute(END, (*_how(end, volume), job_id, token)).rowcount == 0:
        return False
    if head.data or head.index:
        db.execute("INSERT INTO outputs VALUES (?, ?, ?)", (job_id, head.index, head.data))
    return True


def end_unstarted(db: sqlite3.Connection, job_id: int, end: End) -> None:
    """Make a job done of which nothing was ever started."""
    db.execute(_DONE, (*_how(end, Volume()), job_id))


def _how(end: End, volume: Volume) -> tuple[Any, ...]:
    ended = (end.started, end.completed, end.ending.value, end.exit_code, end.signal, end.detail, end.duration)
    written = (volume.stdout_bytes, volume.stderr_bytes, volume.stdout_dropped, volume.stderr_dropped)
    used = end.usage
    return *ended, *written, *((used.cpu_user, used.cpu_system, used.max_rss_bytes) if used else (None, None, None))


def requeue(db: sqlite3.Connection, job_id: int, token: str, now: Millis) -> State | None:
    """Put a claim back: queued again, or done if its end was asked for; None if not running under this token."""
    held = db.execute(_HOLDS, (job_id, token)).fetchone()
    if held is None:
        return None
    if held[0]:
        end_unstarted(db, job_id, End(Ending.CANCELLED, now))
        return State.DONE
    db.execute(_REQUEUE, (job_id,))
    return State.QUEUED


def wish_cancel(db: sqlite3.Connection, job_id: int, now: Millis) -> Job:
    """End a queued job, or note the wish at a running one.

    Raises:
        NoSuchJob, AlreadyDone.
    """
    job = rows.job(db, job_id)
    if isinstance(job.phase, Done):
        raise AlreadyDone(job_id)
    if isinstance(job.phase, Running):
        db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ?", (job_id,))
        return replace(job, phase=replace(job.phase, cancelling=True))
    done = Done(End(Ending.CANCELLED, now), Volume())
    end_unstarted(db, job_id, done.end)
    return replace(job, phase=done)


def delete_job(db: sqlite3.Connection, job_id: int) -> int | None:
    """Remove a job that is done with all that is its own; how much output it had, None if that was gone before.

    Raises:
        NoSuchJob, NotDone.
    """
    state, stored = _state(db, job_id)
    if state is not State.DONE:
        raise NotDone(job_id)
    remove(db, job_id)
    return stored


def delete_result(db: sqlite3.Connection, job_id: int) -> int:
    """Remove the result of a job that is done; how much output it had.

    Raises:
        NoSuchJob, NoResultYet, ResultGone.
    """
    state, stored = _state(db, job_id)
    if state is not State.DONE:
        raise NoResultYet(job_id)
    if stored is None:
        raise ResultGone(job_id)
    db.execute(_FORGET, (job_id,))
    db.execute("DELETE FROM outputs WHERE job = ?", (job_id,))
    return stored


def remove(db: sqlite3.Connection, job_id: int) -> None:
    """Remove every row of a job that is done."""
    db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
    db.execute("DELETE FROM outputs WHERE job = ?", (job_id,))


def touch(db: sqlite3.Connection, mark: str) -> str:
    """Write a mark and read it back."""
    db.execute("UPDATE meta SET value = ? WHERE key = 'alive'", (mark,))
    (value,) = db.execute("SELECT value FROM meta WHERE key = 'alive'").fetchone()
    return str(value)


def _state(db: sqlite3.Connection, job_id: int) -> tuple[State, int | None]:
    row = db.execute(STATE, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    return State(row[0]), row[1]
