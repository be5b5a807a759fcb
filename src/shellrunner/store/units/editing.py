"""Changing a job before it starts: its specification, and what follows from that for its turn.

A unit for the writer, decided and written in one transaction: a job is changed, or it was claimed before, never both.
Must not know files, notifications or connections.
"""

import json
from collections.abc import Callable
from typing import Final

from shellrunner.clock import Millis
from shellrunner.errors import AlreadyDone, AlreadyStarted, InvalidJob, JobChanged
from shellrunner.model import Job, State
from shellrunner.store import rows
from shellrunner.store.db import Db, check_changed
from shellrunner.store.query import search
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import admission
from shellrunner.store.units.locks import LockedJob, locked
from shellrunner.store.values import JobEdit

_EDIT: Final = """UPDATE jobs SET state = ?, queue = ?, priority = ?, name = ?, held = ?, due = ?, awaits = ?,
    spec = ? WHERE id = ? AND state = ?"""
_STOP_WAITING: Final = "DELETE FROM dependencies WHERE after = ? AND job = ?"
COUNT_AWAITED: Final = "SELECT count(*) FROM dependencies WHERE job = ?"
# Of the jobs that wait for this one, also through others, those that are among some. Those that were done without
# having started have left their rows (see `dependents`); nothing waits for them any more.
WAIT_FOR_IT: Final = """WITH RECURSIVE waiting (id) AS (
        SELECT job FROM dependencies WHERE after = ?1
        UNION SELECT dependencies.job FROM waiting CROSS JOIN dependencies ON dependencies.after = waiting.id
    ) SELECT id FROM waiting WHERE id IN (SELECT value FROM json_each(?2))"""

CheckMove = Callable[[str], None]  # raises QueueFull if one more job may not wait in this queue


def edit(db: Db, edit: JobEdit, now: Millis, check_move: CheckMove) -> tuple[Job, Transitions]:
    """Change a job's specification; return the job as it is then.

    Raises:
        NoSuchJob, AlreadyStarted, AlreadyDone.
        JobChanged: its specification is not that before the change any more.
        InvalidJob: it cannot wait for the jobs that were added to `after`.
        QueueFull: see `check_move`.
        StoreUnavailable: its row is damaged.
    """
    job = locked(db, edit.job_id)
    if job.state is State.DONE:
        raise AlreadyDone(edit.job_id)
    if job.state is State.RUNNING:
        raise AlreadyStarted(edit.job_id)
    known = rows.job(db, edit.job_id)
    if known.spec != edit.before:
        raise JobChanged(edit.job_id)
    if edit.after == edit.before:
        return known, []
    unfinished = _unfinished(db, job, edit)
    if edit.after.queue != job.queue:
        check_move(edit.after.queue)
    transition = _write(db, job, edit, unfinished, now)
    return rows.job(db, edit.job_id), [transition]


def _unfinished(db: Db, job: LockedJob, edit: JobEdit) -> list[int]:
    """Return those of the added prerequisites that are not done.

    Raises:
        InvalidJob: some do not exist, have failed, or wait for this job themselves.
    """
    after, unfinished, wrong = edit.after.after, [], {}
    for each in dict.fromkeys(after):
        if each in edit.before.after:
            continue
        found = admission.find_visible(db, each, edit.by)
        if found is None:
            wrong[each] = f"there is no job {each}"
        elif each == edit.job_id:
            wrong[each] = "a job cannot wait for itself"
        elif admission.Prerequisite(each, found).failure is not None:
            wrong[each] = f"job {each} did not exit with 0"
        elif found.state is not State.DONE:
            unfinished.append(each)
    if unfinished and job.has_dependents:
        cycles = db.execute(WAIT_FOR_IT, (edit.job_id, json.dumps(unfinished))).fetchall()
        wrong |= {each: f"job {each} waits for this job" for (each,) in cycles}
    if wrong:
        raise InvalidJob([admission.after_error(after, each, why) for each, why in wrong.items()])
    return unfinished


def _write(db: Db, job: LockedJob, edit: JobEdit, unfinished: list[int], now: Millis) -> Transition:
    job_id, spec = edit.job_id, edit.after
    removed = [(each, job_id) for each in edit.before.after if each not in spec.after]
    db.executemany(_STOP_WAITING, removed)
    admission.add_dependencies(db, job_id, unfinished)
    (awaited,) = db.execute(COUNT_AWAITED, (job_id,)).fetchone()
    awaits, due = awaited + spec.held, _due(job, edit, now)
    state = State.WAITING if awaits or due is not None else State.QUEUED
    if state is State.QUEUED:
        due = job.due if job.state is State.QUEUED else now  # since when it could have started
    row = (state, spec.queue, spec.priority, spec.name, int(spec.held), due, awaits, admission.to_json(spec))
    check_changed(db.execute(_EDIT, (*row, job_id, job.state)))
    _update_indexes(db, job, edit)
    return Transition(
        job_id,
        spec.queue,
        job.submitter,
        job.state,
        state,
        due=due if state is State.WAITING and not awaits else None,
        previous_queue=job.queue if spec.queue != job.queue else None,
    )


def _due(job: LockedJob, edit: JobEdit, now: Millis) -> Millis | None:
    """Return before which time the job must not start; None if it may.

    A new `start_at`, or none, also replaces the delay of a retry.
    """
    due = job.due if job.state is State.WAITING else None
    if edit.after.start_at != edit.before.start_at:
        due = edit.after.earliest_start
    return due if due is not None and due > now else None


def _update_indexes(db: Db, job: LockedJob, edit: JobEdit) -> None:
    """Index the job under its new labels and its new name."""
    job_id, before, after = edit.job_id, edit.before, edit.after
    if after.labels != before.labels:
        old = [(key, value, job_id) for key, value in before.labels.items()]
        new = [(key, value, job_id) for key, value in after.labels.items()]
        db.executemany("DELETE FROM labels WHERE key = ? AND value = ? AND job = ?", old)
        db.executemany("INSERT INTO labels (key, value, job) VALUES (?, ?, ?)", new)
    if after.name != before.name:
        search.replace_job(db, job_id, job.text, search.text_of(after.name, job.command))
