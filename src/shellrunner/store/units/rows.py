"""Rows read back as the model has them: jobs, attempts, claims.

Units for a lane, used by the store. Must not write, and must not know files.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from shellrunner.errors import NoResultYet, NoSuchAttempt, NoSuchJob, ResultGone, StoreUnavailable
from shellrunner.model import (
    Callback,
    Claim,
    Delivery,
    Done,
    End,
    Ending,
    Job,
    JobSpec,
    Phase,
    Queued,
    Running,
    State,
    Usage,
    Volume,
    Waiting,
)

# ruff: noqa: S608  every statement here is put together from constants of this module

_END = """started, completed, ending, exit_code, signal, detail, duration, cpu_user, cpu_system, max_rss_bytes,
    stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped"""
JOB: Final = f"id, spec, created, attempt, submitter, run_as, state, cancelling, {_END}"
ONE: Final = f"SELECT {JOB} FROM jobs WHERE id = ?"
SOME: Final = f"SELECT {JOB} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
ATTEMPT: Final = f"SELECT {_END} FROM attempts WHERE job = ? AND number = ?"

CLAIM: Final = """id, token, keeper, spec, started, cancelling, attempt, max(created, coalesce(due, 0)), run_as,
    secrets"""
RUNNING: Final = f"""SELECT {CLAIM} FROM jobs INDEXED BY jobs_undone
    WHERE state = 'running' AND state != 'done' ORDER BY id"""
UNDONE: Final = """SELECT queue, state, count(*) FROM jobs INDEXED BY jobs_undone
    WHERE state != 'done' GROUP BY queue, state"""
OLDEST: Final = "SELECT min(created) FROM jobs INDEXED BY jobs_queued WHERE state = 'queued' AND queue = ?"

Row = tuple[Any, ...]
_UNREADABLE: Final = JobSpec(command="(unreadable)")


def job(db: sqlite3.Connection, job_id: int) -> Job:
    """The job with this id.

    Raises:
        NoSuchJob: there is none.
    """
    row = db.execute(ONE, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    return as_job(db, row)


def job_or_what_is_left(db: sqlite3.Connection, job_id: int) -> Job:
    """The same; of a damaged row what can still be read of it: one must not hide all others of a list.

    Raises:
        NoSuchJob: there is none.
    """
    try:
        return job(db, job_id)
    except StoreUnavailable:
        row = db.execute(ONE, (job_id,)).fetchone()
        return as_job(db, (row[0], _UNREADABLE.model_dump_json(exclude_defaults=True), *row[2:]))


def some(db: sqlite3.Connection, job_ids: Sequence[int]) -> list[Job]:
    """Those of these jobs that there are."""
    return [as_job(db, row) for row in db.execute(SOME, (json.dumps(job_ids),)).fetchall()]


def attempt(db: sqlite3.Connection, job_id: int, number: int) -> Done:
    """How one attempt ended.

    Raises:
        NoSuchJob, NoSuchAttempt, NoResultYet, ResultGone.
    """
    known = job(db, job_id)
    if isinstance(known.phase, Done) and known.phase.volume is None:
        raise ResultGone(job_id)
    if not 1 <= number <= known.attempt:
        raise NoSuchAttempt(job_id, number)
    if number == known.attempt:
        if isinstance(known.phase, Done):
            return known.phase
        raise NoResultYet(job_id)
    row = db.execute(ATTEMPT, (job_id, number)).fetchone()
    if row is None:
        raise StoreUnavailable(f"attempt {number} of job {job_id} is not in the history")
    return _done(row)


def running(db: sqlite3.Connection) -> list[Claim]:
    """Every running job with who has it, oldest first."""
    return [_claim_or_what_is_left(row) for row in db.execute(RUNNING)]


def oldest(db: sqlite3.Connection, queues: Sequence[str]) -> list[int | None]:
    """When the oldest job that is queued in each of these queues was accepted."""
    return [db.execute(OLDEST, (queue,)).fetchone()[0] for queue in queues]


def claim(row: Row) -> Claim:
    """A row of `CLAIM`, with the job's secrets.

    Raises:
        StoreUnavailable: the row is damaged.
    """
    job_id, token, keeper, spec, claimed, cancelling, number, ready, run_as, hidden = row
    return Claim(job_id, token, keeper, _spec(job_id, spec, hidden), claimed, bool(cancelling), number, ready, run_as)


def _claim_or_what_is_left(row: Row) -> Claim:
    # Whether it runs and under which token must be known even if what was asked for cannot be read any more.
    try:
        return claim(row)
    except StoreUnavailable:
        job_id, token, keeper, _, claimed, cancelling, number, ready, run_as, _ = row
        return Claim(job_id, token, keeper, _UNREADABLE, claimed, bool(cancelling), number, ready, run_as)


def as_job(db: sqlite3.Connection, row: Row) -> Job:
    """A row of `JOB`."""
    job_id, text, created, number, submitter, run_as, state, cancelling, *end = row
    spec = _spec(job_id, text)
    callback = _callback(db, job_id) if spec.notify else None
    phase = _phase(State(state), cancelling, tuple(end))
    return Job(job_id, spec, created, phase, number, callback, submitter, run_as)


def _callback(db: sqlite3.Connection, job_id: int) -> Callback | None:
    row = db.execute("SELECT state, tries, error FROM callbacks WHERE job = ?", (job_id,)).fetchone()
    return Callback(Delivery(row[0]), row[1], row[2]) if row else None


def _spec(job_id: int, text: str, hidden: str | None = None) -> JobSpec:
    try:
        spec = JobSpec.model_validate_json(text)
        return spec.model_copy(update=json.loads(hidden)) if hidden is not None else spec
    except ValueError:  # not JSON, or not a job
        raise StoreUnavailable(f"what the history says of job {job_id} cannot be read") from None


def _phase(state: State, cancelling: int, end: Row) -> Phase:
    match state:
        case State.WAITING:
            return Waiting()
        case State.QUEUED:
            return Queued()
        case State.RUNNING:
            return Running(end[0], bool(cancelling))
        case State.DONE:
            return _done(end)


def _done(row: Row) -> Done:
    started, completed, ending, exit_code, signal, detail, duration, *rest = row
    cpu_user, cpu_system, max_rss_bytes, *volume = rest
    usage = Usage(cpu_user, cpu_system, max_rss_bytes) if cpu_user is not None else None
    try:
        end = End(Ending(ending), completed, exit_code, signal, detail, started, duration, usage)
    except ValueError as contradiction:  # nobody of this program wrote that
        raise StoreUnavailable(f"an end in the history cannot be true: {contradiction}") from None
    return Done(end, Volume(*volume) if volume[0] is not None else None)
