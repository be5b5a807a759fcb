"""Accepting a job: its row and all that it brings along, in one commit; and queueing one that has waited.

Units for the writer, used by the store. Must not know files, bells or connections.
"""

import json
import sqlite3
from dataclasses import dataclass
from typing import Final

from shellrunner.clock import Millis
from shellrunner.errors import InvalidJob
from shellrunner.model import Ending, Job, JobSpec, Queued, Running, State, Streamed, Submitter
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import dependents, due_callbacks, rows

ADD: Final = """INSERT INTO jobs (state, queue, priority, created, command, spec, secrets, submitter, run_as,
    started, keeper, token) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_LATER: Final = "UPDATE jobs SET state = 'waiting', due = ?, awaits = ?, minded = ? WHERE id = ?"
_HOW: Final = "SELECT state, ending, exit_code FROM jobs WHERE id = ?"
DUE: Final = """SELECT id, queue FROM jobs INDEXED BY jobs_due WHERE state = 'waiting' AND awaits = 0 AND due <= ?
    ORDER BY due LIMIT ?"""
NEXT: Final = "SELECT min(due) FROM jobs INDEXED BY jobs_due WHERE state = 'waiting' AND awaits = 0"


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as it goes into its row: what is shown, and apart from it what is secret.

    `at_once`: nothing that it brings along keeps it from starting, or has to be written in its own rows.
    """

    spec: JobSpec
    created: Millis
    shown: str
    secrets: str | None
    at_once: bool
    submitter: str | None
    run_as: str | None

    @classmethod
    def of(cls, spec: JobSpec, now: Millis, by: Submitter | None = None) -> "NewJob":
        """Prepare a job that is accepted now."""
        secret: dict[str, object] = {"env": spec.env} if spec.env else {}
        if spec.stdin is not None and not isinstance(spec.stdin, Streamed):
            secret["stdin"] = spec.stdin
        hidden = json.dumps(secret, ensure_ascii=False) if secret else None
        seen = spec.redacted() if secret else spec
        at_once = not (spec.after or spec.start_at)
        name, run_as = (by.name, by.run_as) if by else (None, None)
        return cls(seen, now, seen.model_dump_json(exclude_defaults=True), hidden, at_once, name, run_as)


def add(db: sqlite3.Connection, job: NewJob, owner: tuple[int, str] | None = None) -> tuple[Job, Transitions]:
    """Put the job into the queue, or at once into the hands of its owner (keeper, token); the job, and its moves.

    Raises:
        InvalidJob: it waits for a job that there is not.
    """
    spec = job.spec
    awaited = _awaited(db, spec.after) if spec.after else []
    who = (job.submitter, job.run_as)
    row = (spec.queue, spec.priority, job.created, spec.command_line, job.shown, job.secrets, *who)
    whose = ("queued", *row, None, None, None) if owner is None else ("running", *row, job.created, *owner)
    job_id = db.execute(ADD, whose).lastrowid
    assert job_id is not None  # noqa: S101  # an INSERT into a rowid table has one
    if spec.labels:
        labels = [(key, value, job_id) for key, value in spec.labels.items()]
        db.executemany("INSERT INTO labels VALUES (?, ?, ?)", labels)
    if spec.notify:
        due_callbacks.expect(db, job_id, spec.notify.host)
        db.execute("UPDATE jobs SET minded = 1 WHERE id = ?", (job_id,))
    moves = [Transition(job_id, spec.queue, None, State.QUEUED if owner is None else State.RUNNING)]
    if not job.at_once:
        moves = _hold_back(db, job_id, job, awaited)
    if spec.notify or not job.at_once:
        return rows.job(db, job_id), moves
    phase = Queued() if owner is None else Running(job.created)
    return Job(job_id, spec, job.created, phase, 1, None, *who), moves


def _awaited(db: sqlite3.Connection, after: tuple[int, ...]) -> list[tuple[int, State, Ending | None, int | None]]:
    """How the jobs stand for which one waits."""
    found = [(job_id, db.execute(_HOW, (job_id,)).fetchone()) for job_id in dict.fromkeys(after)]
    places = {job_id: place for place, job_id in reversed(list(enumerate(after)))}
    unknown = [job_id for job_id, row in found if row is None]
    if unknown:
        raise InvalidJob(
            [{"pointer": f"#/after/{places[job_id]}", "detail": f"there is no job {job_id}"} for job_id in unknown]
        )
    return [(job_id, State(row[0]), row[1] and Ending(row[1]), row[2]) for job_id, row in found]


def _hold_back(
    db: sqlite3.Connection,
    job_id: int,
    job: NewJob,
    awaited: list[tuple[int, State, Ending | None, int | None]],
) -> Transitions:
    """Let a job wait that was put into the queue, if it has to; or skip it, if it may not start any more."""
    queue, now = job.spec.queue, job.created
    for after, _, ending, exit_code in awaited:
        if ending is not None and not (ending is Ending.EXITED and exit_code == 0):
            end = dependents.skipped_for(after, ending, exit_code, now)
            skipped, *more = dependents.end_unstarted(db, job_id, end)
            return [skipped._replace(before=None), *more]
    left = [(after, job_id) for after, state, *_ in awaited if state is not State.DONE]
    earliest = job.spec.earliest_start
    due = earliest if earliest is not None and earliest > now else None
    if not left and due is None:
        return [Transition(job_id, queue, None, State.QUEUED)]
    db.executemany("INSERT INTO dependencies VALUES (?, ?)", left)
    db.executemany("UPDATE jobs SET minded = 1 WHERE id = ?", [(after,) for after, _ in left])
    db.execute(_LATER, (due, len(left), job.spec.notify is not None, job_id))
    return [Transition(job_id, queue, None, State.WAITING, due=None if left else due)]


def wake(db: sqlite3.Connection, now: Millis, most: int) -> Transitions:
    """Queue jobs that have waited long enough."""
    late = db.execute(DUE, (now, most)).fetchall()
    db.executemany("UPDATE jobs SET state = 'queued' WHERE id = ?", [(job_id,) for job_id, _ in late])
    return [Transition(job_id, queue, State.WAITING, State.QUEUED) for job_id, queue in late]


def upcoming(db: sqlite3.Connection) -> Millis | None:
    """When the next job has waited long enough."""
    (moment,) = db.execute(NEXT).fetchone()
    return None if moment is None else int(moment)
