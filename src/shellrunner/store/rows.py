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

_JOB = """jobs.id, spec, created, state, started, cancelling, completed, ending, exit_code, signal, detail, duration,
    cpu_user, cpu_system, max_rss_bytes, results.job, stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped"""
_FROM = "FROM jobs LEFT JOIN results ON results.job = jobs.id"
ONE = f"SELECT {_JOB} {_FROM} WHERE jobs.id = ?"
PAGE: Final = f"SELECT {_JOB} {_FROM} WHERE jobs.id < ? ORDER BY jobs.id DESC LIMIT ?"
PAGE_OF_STATE: Final = f"SELECT {_JOB} {_FROM} WHERE state = ? AND jobs.id < ? ORDER BY jobs.id DESC LIMIT ?"
PAGE_OF_RESULTS: Final = f"""SELECT {_JOB} FROM results CROSS JOIN jobs ON jobs.id = results.job
    WHERE results.job < ? ORDER BY results.job DESC LIMIT ?"""  # noqa: S608  # from constants

CLAIM: Final = "id, token, keeper, spec, started, cancelling, secrets"
RUNNING: Final = f"SELECT {CLAIM} FROM jobs INDEXED BY jobs_by_state WHERE state = 'running' ORDER BY id"  # noqa: S608

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
    rows = [row for state in states for row in db.execute(PAGE_OF_STATE, (state.value, before, limit))]
    rows.sort(key=lambda row: int(row[0]), reverse=True)
    return [_job(row) for row in rows[:limit]]


def results(db: sqlite3.Connection, limit: int, before: int) -> list[Job]:
    """A page of the jobs that have a result, newest first."""
    return [_job(row) for row in db.execute(PAGE_OF_RESULTS, (before, limit))]


def running(db: sqlite3.Connection) -> list[Claim]:
    """Every running job with who has it, oldest first."""
    return [claim(row) for row in db.execute(RUNNING)]


def claim(row: Row) -> Claim:
    """A row of `CLAIM`, with the job's secrets.

    Raises:
        StoreUnavailable: the row is damaged.
    """
    job_id, token, keeper, spec, claimed, cancelling, hidden = row
    return Claim(job_id, token, keeper, _spec(job_id, spec, hidden), claimed, bool(cancelling))


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
    cpu_user, cpu_system, max_rss_bytes, result, *volume = row[12:]
    usage = Usage(cpu_user, cpu_system, max_rss_bytes) if cpu_user is not None else None
    end = End(Ending(ending), completed, exit_code, signal, detail, started, duration, usage)
    return Done(end, Volume(*volume) if result is not None else None)
