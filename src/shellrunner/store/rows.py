"""Rows read back as the model has them: one job, a page of jobs, claims.

Units for a lane, used by the store. Must not write, and must not know files.
"""

import json
import sqlite3
import sys
from typing import Any, Final

from shellrunner.errors import NoSuchJob, StoreUnavailable
from shellrunner.model import Claim, Done, End, Ending, Job, JobSpec, Phase, Queued, Running, State, Usage, Volume

LAST: Final = sys.maxsize  # an id above every id

# ruff: noqa: S608  every statement here is put together from constants of this module

_JOB = """id, spec, created, state, started, cancelling, completed, ending, exit_code, signal, detail, duration,
    cpu_user, cpu_system, max_rss_bytes, stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped"""
ONE = f"SELECT {_JOB} FROM jobs WHERE id = ?"
PAGE: Final = f"SELECT {_JOB} FROM jobs WHERE id < ? ORDER BY id DESC LIMIT ?"
# What is not done has an index of its own (SQLite must be told that it fits); what is done is nearly all there is.
PAGE_OF: Final = {
    State.DONE: f"SELECT {_JOB} FROM jobs WHERE state = 'done' AND id < ? ORDER BY id DESC LIMIT ?",
    **{
        state: f"""SELECT {_JOB} FROM jobs INDEXED BY jobs_undone
        WHERE state = '{state}' AND state != 'done' AND id < ? ORDER BY id DESC LIMIT ?"""
        for state in (State.QUEUED, State.RUNNING)
    },
}
PAGE_OF_RESULTS: Final = f"""SELECT {_JOB} FROM jobs
    WHERE stdout_bytes IS NOT NULL AND id < ? ORDER BY id DESC LIMIT ?"""

CLAIM: Final = "id, token, keeper, spec, started, cancelling, secrets"
RUNNING: Final = f"""SELECT {CLAIM} FROM jobs INDEXED BY jobs_undone
    WHERE state = 'running' AND state != 'done' ORDER BY id"""

Row = tuple[Any, ...]


def job(db: sqlite3.Connection, job_id: int) -> Job:
    """The job with this id.

    Raises:
        NoSuchJob: there is none.
    """
    row = db.execute(ONE, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    return _job(row)


def jobs(db: sqlite3.Connection, states: frozenset[State], limit: int, before: int) -> list[Job]:
    """A page of the jobs in these states, newest first. Each state has its own walk, so none scans another's."""
    if len(states) == len(State):
        return [_job(row) for row in db.execute(PAGE, (before, limit))]
    rows = [row for state in states for row in db.execute(PAGE_OF[state], (before, limit))]
    rows.sort(key=lambda row: int(row[0]), reverse=True)
    return [_job(row) for row in rows[:limit]]


def results(db: sqlite3.Connection, limit: int, before: int) -> list[Job]:
    """A page of the jobs that have a result, newest first."""
    return [_job(row) for row in db.execute(PAGE_OF_RESULTS, (before, limit))]


def running(db: sqlite3.Connection) -> list[Claim]:
    """Every running job with who has it, oldest first."""
    return [_claim_or_what_is_left(row) for row in db.execute(RUNNING)]


def claim(row: Row) -> Claim:
    """A row of `CLAIM`, with the job's secrets.

    Raises:
        StoreUnavailable: the row is damaged.
    """
    job_id, token, keeper, spec, claimed, cancelling, hidden = row
    return Claim(job_id, token, keeper, _spec(job_id, spec, hidden), claimed, bool(cancelling))


def _claim_or_what_is_left(row: Row) -> Claim:
    # Whether it runs and under which token must be known even if what was asked for cannot be read any more.
    try:
        return claim(row)
    except StoreUnavailable:
        job_id, token, keeper, _, claimed, cancelling, _ = row
        return Claim(job_id, token, keeper, JobSpec(command="(unreadable)"), claimed, bool(cancelling))


def _job(row: Row) -> Job:
    return Job(row[0], _spec(row[0], row[1]), row[2], _phase(row))


def _spec(job_id: int, text: str, hidden: str | None = None) -> JobSpec:
    try:
        spec = JobSpec.model_validate_json(text)
        return spec.model_copy(update=json.loads(hidden)) if hidden is not None else spec
    except ValueError:  # not JSON, or not a job
        raise StoreUnavailable(f"what the history says of job {job_id} cannot be read") from None


def _phase(row: Row) -> Phase:
    state, started, cancelling, completed, ending, exit_code, signal, detail, duration = row[3:12]
    if state == "queued":
        return Queued()
    if state == "running":
        return Running(started, bool(cancelling))
    cpu_user, cpu_system, max_rss_bytes, *volume = row[12:]
    usage = Usage(cpu_user, cpu_system, max_rss_bytes) if cpu_user is not None else None
    end = End(Ending(ending), completed, exit_code, signal, detail, started, duration, usage)
    return Done(end, Volume(*volume) if volume[0] is not None else None)
