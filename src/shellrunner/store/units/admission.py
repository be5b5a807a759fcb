"""Accepting jobs: their rows and the rows beside them, in one commit; and queueing jobs that have waited.

Units for the writer. Must not know files, notifications or connections.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from shellrunner.clock import Millis
from shellrunner.errors import MAX_ERRORS, InvalidJob, InvalidJobs
from shellrunner.model import Claim, Ending, Job, JobSpec, Queued, Running, State, Submitter
from shellrunner.sealing import sealed_text
from shellrunner.sealing.key_files import JobKey
from shellrunner.store import rows
from shellrunner.store.columns import NewJobRow, columns, placeholders
from shellrunner.store.db import Db, check_changed
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.queues import Line
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import dependents, due_callbacks
from shellrunner.store.units.locks import LockedJob, find_locked

# ruff: noqa: S608  every statement here is put together from constants of this program

ADD: Final = f"INSERT INTO jobs ({columns(NewJobRow)}) VALUES ({placeholders(NewJobRow)}) RETURNING id"
_WAIT: Final = """UPDATE jobs SET state = 'waiting', due = ?, awaits = ?, has_dependents = ?
    WHERE id = ? AND state = 'queued'"""
_OWN: Final = "SELECT 1 FROM jobs WHERE id = ? AND submitter = ? AND run_as IS NOT DISTINCT FROM ?"
_SEAL: Final = "UPDATE jobs SET secrets = ? WHERE id = ?"
_MARK_DEPENDENTS: Final = "UPDATE jobs SET has_dependents = 1 WHERE id = ?"
# Its conditions stand twice: another writer may be changing a job that was found.
QUEUE_DUE: Final = """UPDATE jobs SET state = 'queued' WHERE state = 'waiting' AND awaits = 0 AND due <= ? AND id IN (
    SELECT id FROM jobs INDEXED BY jobs_due WHERE state = 'waiting' AND awaits = 0 AND due <= ? ORDER BY due LIMIT ?
    ) RETURNING id, queue, submitter"""
NEXT: Final = "SELECT min(due) FROM jobs INDEXED BY jobs_due WHERE state = 'waiting' AND awaits = 0"


@dataclass(slots=True)
class NewJob:
    """A job that is to be accepted: `spec` as it was sent, `redacted` as it is shown, `secrets` what was removed.

    `redacted_json` is as the row has it; making it before the transaction keeps that short. `secrets` are JSON, which
    no row ever has: it is sealed with `key`, which must be there before the job is added.
    `is_startable`: it does not wait for anything but its turn. `by` is None if the submitter is not known.
    """

    spec: JobSpec
    redacted: JobSpec
    redacted_json: str
    secrets: str | None = field(repr=False)
    created: Millis
    is_startable: bool
    by: Submitter | None
    again_of: int | None = None
    key: JobKey | None = None

    @classmethod
    def accept(cls, spec: JobSpec, now: Millis, by: Submitter | None = None, *, again_of: int | None = None) -> Self:
        """Prepare a job that is accepted now."""
        if spec.stdin == "":  # as if there were none; in a redacted copy it stands for text
            spec = spec.model_copy(update={"stdin": None})
        secrets: dict[str, object] = {"env": spec.env} if spec.env else {}
        if spec.has_text():
            secrets["stdin"] = spec.stdin
        redacted = spec.redacted() if secrets else spec
        return cls(
            spec=spec,
            redacted=redacted,
            redacted_json=to_json(redacted),
            secrets=json.dumps(secrets, ensure_ascii=False) if secrets else None,
            created=now,
            is_startable=not (spec.after or spec.start_at or spec.held),
            by=by,
            again_of=again_of,
        )

    @property
    def submitter(self) -> str | None:
        """The name of the identity that submitted it."""
        return self.by.name if self.by else None

    @property
    def run_as(self) -> str | None:
        """The system user of its command; None: the service's own."""
        return self.by.run_as if self.by else None

    @property
    def kill_only(self) -> bool:
        """Whether its command is ended by KILL, without TERM and grace."""
        return self.by is not None and self.by.kill_only

    @property
    def line(self) -> Line:
        """The line that it waits in."""
        return Line(self.spec.queue, self.submitter)

    def claim(self, job_id: int, owner: SlotOwner) -> Claim:
        """Return the claim of its owner, which is committed with it."""
        return Claim(
            job_id,
            owner.token,
            owner.keeper,
            self.spec,
            self.created,
            ready=self.created,
            run_as=self.run_as,
            kill_only=self.kill_only,
        )

    def row(self, owner: SlotOwner | None) -> NewJobRow:
        """Return the row: running if it is claimed in the same commit, else queued."""
        return NewJobRow(
            state="queued" if owner is None else "running",
            queue=self.spec.queue,
            priority=self.spec.priority,
            created=self.created,
            command=self.spec.command_line,
            spec=self.redacted_json,
            submitter=self.submitter,
            run_as=self.run_as,
            kill_only=int(self.kill_only),
            name=self.spec.name,
            again_of=self.again_of,
            held=int(self.spec.held),
            keeper=None if owner is None else owner.keeper,
            token=None if owner is None else owner.token,
            claimed=None if owner is None else self.created,
        )


def to_json(redacted: JobSpec) -> str:
    """Return a specification without secrets as a row has it."""
    # What is not set is a default, with which it need not be compared.
    return redacted.model_dump_json(exclude_defaults=True, exclude_unset=True)


class Prerequisite(NamedTuple):
    """A job that has to succeed before another one may start."""

    job_id: int
    job: LockedJob

    @property
    def failure(self) -> tuple[Ending, int | None] | None:
        """How it failed; None if it has not."""
        if self.job.ending is None:
            return None
        ending = Ending(self.job.ending)
        return None if ending is Ending.EXITED and self.job.exit_code == 0 else (ending, self.job.exit_code)


def add(db: Db, jobs: Sequence[tuple[NewJob, SlotOwner | None]]) -> tuple[list[Job], Transitions]:
    """Accept jobs of one submitter, all or none: each waiting, queued, or at once running if an owner claims it.

    Raises:
        InvalidJobs: `after` of some names jobs that do not exist. Nothing was written.
    """
    prerequisites = _prerequisites(db, [new for new, _ in jobs])
    accepted, transitions = [], []
    for index, (new, owner) in enumerate(jobs):
        job, of_job = _add(db, new, owner, prerequisites[index])
        accepted.append(job)
        transitions += of_job
    return accepted, transitions


def _add(db: Db, new: NewJob, owner: SlotOwner | None, prerequisites: list[Prerequisite]) -> tuple[Job, Transitions]:
    spec = new.spec
    # A plain tuple of plain values: sqlite3 binds anything else more slowly.
    ((job_id,),) = db.execute(ADD, tuple(new.row(owner))).fetchall()
    if new.secrets is not None:
        _seal(db, job_id, new)
    if spec.labels:
        labels = [(key, value, job_id) for key, value in spec.labels.items()]
        db.executemany("INSERT INTO labels (key, value, job) VALUES (?, ?, ?)", labels)
    if spec.notify:
        due_callbacks.add(db, job_id, spec.notify.host)
        db.execute(_MARK_DEPENDENTS, (job_id,))
    state = State.QUEUED if owner is None else State.RUNNING
    transitions = [Transition(job_id, spec.queue, new.submitter, None, state, owner=owner)]
    if not new.is_startable:
        transitions = _hold_back(db, job_id, new, prerequisites)
    if new.key is not None:
        transitions[0] = transitions[0]._replace(key=new.key.name)
    if spec.notify or not new.is_startable:
        return rows.job(db, job_id), transitions
    phase = Queued(spec.queue, new.submitter) if owner is None else Running(new.created)
    job = Job(job_id, new.redacted, new.created, phase, 1, None, new.submitter, new.run_as, new.again_of)
    return job, transitions


def _seal(db: Db, job_id: int, new: NewJob) -> None:
    """Write the secrets; not with the row itself, as they are sealed for this id alone."""
    assert new.secrets is not None  # noqa: S101  the caller has looked
    assert new.key is not None  # noqa: S101  `SqliteStore.add` has made it
    db.execute(_SEAL, (sealed_text.seal(new.secrets, new.key, job_id), job_id))


def _prerequisites(db: Db, jobs: Iterable[NewJob]) -> dict[int, list[Prerequisite]]:
    """Return the jobs that `after` names, by the index of the job that waits for them.

    They are locked: none of them may end before the dependency is written. One that the submitter may not see is as
    unknown as one that does not exist, and so is one of the same batch.
    """
    found: dict[int, list[Prerequisite]] = {}
    invalid: dict[int, InvalidJob] = {}
    known: dict[int, LockedJob | None] = {}
    for index, new in enumerate(jobs):
        after = tuple(dict.fromkeys(new.spec.after))
        for job_id in after:
            if job_id not in known:
                known[job_id] = find_visible(db, job_id, new.by)
        if unknown := [job_id for job_id in after if known[job_id] is None]:
            invalid[index] = InvalidJob(
                [after_error(new.spec.after, job_id, f"there is no job {job_id}") for job_id in unknown]
            )
            if len(invalid) == MAX_ERRORS:
                break
        found[index] = [Prerequisite(job_id, job) for job_id in after if (job := known[job_id]) is not None]
    if invalid:
        raise InvalidJobs(invalid)
    return found


def after_error(after: tuple[int, ...], job_id: int, why: str) -> dict[str, str]:
    """Return the error of a job that cannot wait for this one of `after`."""
    return {"pointer": f"#/after/{after.index(job_id)}", "detail": why}


def find_visible(db: Db, job_id: int, by: Submitter | None) -> LockedJob | None:
    """Return a job's row, locked, if there is one that `by` may see."""
    is_visible = by is None or by.sees_all or db.execute(_OWN, (job_id, by.name, by.run_as)).fetchone()
    return find_locked(db, job_id) if is_visible else None


def add_dependencies(db: Db, job_id: int, prerequisites: Iterable[int]) -> None:
    """Have a job wait for others, none of which is done."""
    after = list(prerequisites)
    db.executemany("INSERT INTO dependencies (after, job) VALUES (?, ?)", [(each, job_id) for each in after])
    db.executemany(_MARK_DEPENDENTS, [(each,) for each in after])


def _hold_back(db: Db, job_id: int, new: NewJob, prerequisites: list[Prerequisite]) -> Transitions:
    """Let a queued job wait if it has to, or skip it if it can never start."""
    queue, submitter, now = new.spec.queue, new.submitter, new.created
    for prerequisite in prerequisites:
        if prerequisite.failure is not None:
            end = dependents.skipped_end(prerequisite.job_id, *prerequisite.failure, now)
            skipped, *more = dependents.end_unstarted(db, job_id, end)
            return [skipped._replace(before=None), *more]
    unfinished = [each.job_id for each in prerequisites if each.job.state is not State.DONE]
    earliest = new.spec.earliest_start
    due = earliest if earliest is not None and earliest > now else None
    awaits = len(unfinished) + new.spec.held
    if not awaits and due is None:
        return [Transition(job_id, queue, submitter, None, State.QUEUED)]
    add_dependencies(db, job_id, unfinished)
    check_changed(db.execute(_WAIT, (due, awaits, int(new.spec.notify is not None), job_id)))
    earliest = None if awaits else due
    return [Transition(job_id, queue, submitter, None, State.WAITING, due=earliest)]


def queue_due(db: Db, now: Millis, limit: int) -> Transitions:
    """Queue up to `limit` jobs that are due, the longest due first."""
    due = db.execute(QUEUE_DUE, (now, now, limit)).fetchall()
    return [Transition(job_id, queue, submitter, State.WAITING, State.QUEUED) for job_id, queue, submitter in due]


def next_due(db: Db) -> Millis | None:
    """Return when the next job is due."""
    (moment,) = db.execute(NEXT).fetchone()
    return None if moment is None else int(moment)
