"""Reading jobs, attempts and claims: the model's values from the rows that `columns` describes.

Used by units and queries. Must not write, and must not know files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from sys import getsizeof
from typing import Final, NamedTuple

from shellrunner.clock import Millis
from shellrunner.errors import NoResultYet, NoSuchAttempt, NoSuchJob, ResultGone, StoreUnavailable
from shellrunner.model import (
    Callback,
    Claim,
    Delivery,
    Done,
    Found,
    Job,
    JobSpec,
    JobStatus,
    Phase,
    Queued,
    Running,
    State,
    Unreachable,
    Waiting,
)
from shellrunner.store.columns import (
    AwaitedRow,
    CallbackRow,
    ClaimRow,
    EarlierAttemptRow,
    EndRow,
    JobHostRow,
    JobRow,
    columns,
    parse_found,
)
from shellrunner.store.db import Db, Row

# ruff: noqa: S608  every statement here is put together from constants of this module


_AWAITED: Final = """CASE WHEN jobs.state = 'waiting' AND awaits > held
    THEN (SELECT min(after) FROM dependencies WHERE job = jobs.id) END AS awaited"""
HOST_COLUMNS: Final = "NULL AS host, NULL AS unreachable_since, NULL AS found"  # of SQLite, which has one host
_JOB: Final = (
    columns(JobRow, AwaitedRow, JobHostRow, CallbackRow, EndRow)
    .replace(" awaited,", f" {_AWAITED},")
    .replace(columns(JobHostRow), HOST_COLUMNS)
)
_WITH_CALLBACK: Final = """jobs LEFT JOIN (SELECT job AS callback_job, state AS callback_state,
    tries AS callback_tries, error AS callback_error FROM callbacks) AS callback ON callback_job = id"""
ONE: Final = f"SELECT {_JOB} FROM {_WITH_CALLBACK} WHERE id = ?"
SOME: Final = f"SELECT {_JOB} FROM {_WITH_CALLBACK} WHERE id IN (SELECT value FROM json_each(?))"
# In the order of the ids: a CROSS JOIN is never reordered, and `json_each` goes through its array.
_LISTED: Final = (
    f"FROM (SELECT value AS wanted FROM json_each(?)) AS list CROSS JOIN {_WITH_CALLBACK} WHERE id = wanted"
)
LISTED: Final = f"SELECT {_JOB} {_LISTED}"
LISTED_WITHOUT_SPEC: Final = f"SELECT {_JOB.replace(' spec,', ' NULL,')} {_LISTED}"
EARLIER_COLUMNS: Final = "NULL AS attempt_host, NULL AS attempt_found"  # likewise
ATTEMPT: Final = f"SELECT {EARLIER_COLUMNS}, {columns(EndRow)} FROM attempts WHERE job = ? AND number = ?"
# `state != 'done'` is the condition of the index.
RUNNING: Final = f"""SELECT {columns(ClaimRow)} FROM jobs INDEXED BY jobs_undone
    WHERE state = 'running' AND state != 'done' ORDER BY id"""
CANCELLING: Final = f"""SELECT {columns(ClaimRow)} FROM jobs INDEXED BY jobs_undone
    WHERE state = 'running' AND state != 'done' AND cancelling != 0 ORDER BY id"""
UNDONE: Final = """SELECT queue, submitter, state, count(*) FROM jobs INDEXED BY jobs_undone
    WHERE state != 'done' GROUP BY queue, submitter, state"""
OLDEST: Final = "SELECT min(created) FROM jobs INDEXED BY jobs_queued WHERE state = 'queued' AND queue = ?"

_SUBMITTER: Final = "SELECT submitter, run_as FROM jobs WHERE id = ?"

# Where they are in a row of `_JOB`: some columns, and the parts behind those of `JobRow`.
_ID, _SPEC, _STATE, _CREATED, _CLAIMED = map(JobRow._fields.index, ("id", "spec", "state", "created", "claimed"))
_AWAITED_JOB: Final = len(JobRow._fields)
_HOST: Final = _AWAITED_JOB + len(AwaitedRow._fields)
_CALLBACK: Final = _HOST + len(JobHostRow._fields)
_SINCE, _FOUND = (_HOST + JobHostRow._fields.index(name) for name in ("unreachable_since", "found"))
_END: Final = _CALLBACK + len(CallbackRow._fields)
_STDOUT_BYTES: Final = _END + EndRow._fields.index("stdout_bytes")
_UNREADABLE: Final = JobSpec(command="(unreadable)")
_ROW_SIZE: Final = 1 << 11  # bytes that a row takes without its spec, about
_MAX_KEPT_SPECS: Final = 1024
_MAX_KEPT_LENGTH: Final = 2048  # characters of a spec's text; a longer one is parsed each time


class ListedRow(NamedTuple):
    """The `pagination.ListedJob` of this back end: a row with the columns of `LISTED`."""

    row: Row

    @property
    def id(self) -> int:
        job_id: int = self.row[_ID]
        return job_id

    @property
    def size(self) -> int:
        return _ROW_SIZE + getsizeof(self.row[_SPEC])

    @property
    def is_running(self) -> bool:
        return bool(self.row[_STATE] == State.RUNNING)

    @property
    def claimed(self) -> Millis | None:
        return (self.row[_CLAIMED] or self.row[_CREATED]) if self.is_running else None

    @property
    def is_queued(self) -> bool:
        return bool(self.row[_STATE] == State.QUEUED)

    @property
    def is_done(self) -> bool:
        return bool(self.row[_STATE] == State.DONE)

    @property
    def has_result(self) -> bool:
        return self.is_done and self.row[_STDOUT_BYTES] is not None

    def job(self) -> Job:
        try:
            return to_job(self.row)
        except StoreUnavailable:
            spec = _UNREADABLE.model_dump_json(exclude_defaults=True)
            return to_job((*_job_row(self.row)._replace(spec=spec), *self.row[_AWAITED_JOB:]))

    def whole_job(self) -> Job:
        return to_job(self.row)

    def status(self) -> JobStatus:
        known = _job_row(self.row)
        host = self.row[_HOST]
        return JobStatus(known.id, known.created, _phase(known, self.row), known.attempt, known.name, host)


def job(db: Db, job_id: int) -> Job:
    """Return the job with this id.

    Raises:
        NoSuchJob: there is none.
        StoreUnavailable: its row is damaged.
    """
    return stored(db, job_id).whole_job()


def stored(db: Db, job_id: int) -> ListedRow:
    """Return the row of the job with this id.

    Raises:
        NoSuchJob: there is none.
    """
    row = db.execute(ONE, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    return ListedRow(row)


def submitter(db: Db, job_id: int) -> tuple[str | None, str | None]:
    """Return which identity submitted the job, and its user.

    Raises:
        NoSuchJob: there is none.
    """
    row = db.execute(_SUBMITTER, (job_id,)).fetchone()
    if row is None:
        raise NoSuchJob(job_id)
    return row[0], row[1]


def listed(db: Db, job_ids: Sequence[int], *, with_spec: bool) -> Iterator[tuple[ListedRow, int]]:
    """Yield these jobs, in this order, each with the length of its spec's text; without it, no spec is read."""
    for row in db.execute(LISTED if with_spec else LISTED_WITHOUT_SPEC, (json.dumps(job_ids),)):
        yield ListedRow(row), len(row[_SPEC] or "")


def jobs(db: Db, job_ids: Sequence[int]) -> list[Job]:
    """Return those of these jobs that exist."""
    return [to_job(row) for row in db.execute(SOME, (json.dumps(job_ids),)).fetchall()]


def attempt(db: Db, job_id: int, number: int) -> Done:
    """Return how one attempt ended.

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
        raise StoreUnavailable(f"attempt {number} of job {job_id} is missing in the history")
    earlier = EarlierAttemptRow._make(row[: len(EarlierAttemptRow._fields)])
    done = EndRow._make(row[len(earlier) :]).to_done()
    return replace(done, host=earlier.attempt_host, found=_found(earlier.attempt_found))


def running(db: Db) -> list[Claim]:
    """Return the claims of all running jobs, the oldest job first; without secrets, which only a start needs."""
    return [readable_claim(ClaimRow._make(row)) for row in db.execute(RUNNING)]


def cancelling(db: Db) -> list[Claim]:
    """Return the claims of the running jobs whose cancellation was requested, the oldest job first."""
    return [readable_claim(ClaimRow._make(row)) for row in db.execute(CANCELLING)]


def oldest_queued(db: Db, queues: Sequence[str]) -> list[Millis | None]:
    """Return when the oldest queued job of each of these queues was accepted."""
    return [db.execute(OLDEST, (queue,)).fetchone()[0] for queue in queues]


def to_claim(row: ClaimRow, secrets: Mapping[str, object] | None = None) -> Claim:
    """Return the claim that this row stands for, with these secrets.

    Raises:
        StoreUnavailable: the row is damaged.
    """
    return _to_claim(row, _spec(row.id, row.spec, secrets))


def readable_claim(row: ClaimRow) -> Claim:
    """Return the claim without its secrets: that it runs must be known even if its specification cannot be read."""
    try:
        return to_claim(row)
    except StoreUnavailable:
        return _to_claim(row, _UNREADABLE)


def _to_claim(row: ClaimRow, spec: JobSpec) -> Claim:
    ready = max(row.created, row.due or 0)
    return Claim(
        job_id=row.id,
        token=row.token,
        keeper=row.keeper,
        spec=spec,
        claimed=row.claimed,
        cancelling=bool(row.cancelling),
        attempt=row.attempt,
        ready=ready,
        run_as=row.run_as,
        kill_only=bool(row.kill_only),
    )


def to_job(row: Row) -> Job:
    """Return the job that the columns of `JobRow`, `CallbackRow` and `EndRow` stand for.

    Raises:
        StoreUnavailable: the row is damaged.
    """
    known = _job_row(row)
    spec = _spec(known.id, known.spec)
    callback = _callback(row) if spec.notify else None
    phase = _phase(known, row)
    return Job(
        known.id,
        spec,
        known.created,
        phase,
        known.attempt,
        callback,
        known.submitter,
        known.run_as,
        known.again_of,
        row[_HOST],
    )


def _job_row(row: Row) -> JobRow:
    return JobRow._make(row[:_AWAITED_JOB])


def _end_row(row: Row) -> EndRow:
    return EndRow._make(row[_END:])


def _found(text: str | None) -> Found | None:
    return None if text is None else parse_found(text)


def _callback(row: Row) -> Callback | None:
    if row[_CALLBACK] is None:
        return None
    state, tries, error = row[_CALLBACK:_END]
    return Callback(Delivery(state), tries, error)


def _spec(job_id: int, text: str, secrets: Mapping[str, object] | None = None) -> JobSpec:
    try:
        spec = _parse_short(text) if len(text) <= _MAX_KEPT_LENGTH else _parse(text)
        return spec.model_copy(update=secrets) if secrets is not None else spec
    except ValueError:  # not JSON, or not a job
        raise StoreUnavailable(f"the row of job {job_id} in the history cannot be read") from None


def _parse(text: str) -> JobSpec:
    return JobSpec.model_validate_json(text)


# By its text, so that nothing can be out of date: a spec is frozen, and the text in a row has no secrets.
_parse_short = lru_cache(_MAX_KEPT_SPECS)(_parse)


def _phase(known: JobRow, row: Row) -> Phase:
    if known.state == State.DONE:  # first, as nearly all jobs are
        done = _end_row(row).to_done()
        return done if row[_FOUND] is None else replace(done, found=_found(row[_FOUND]))
    if known.state == State.RUNNING:
        unreachable = None if row[_SINCE] is None else Unreachable(row[_HOST], row[_SINCE])
        return Running(known.claimed or known.created, bool(known.cancelling), unreachable)
    if known.state == State.QUEUED:
        return Queued(known.queue, known.submitter)
    return Waiting(bool(known.held), known.awaits - known.held, row[_AWAITED_JOB], known.due)
