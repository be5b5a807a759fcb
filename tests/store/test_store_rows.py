"""Rows are described once, and every unit that decides on a row repeats in its write what it decided on."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from shellrunner.errors import JobGone, KeyReused
from shellrunner.model import End, Ending, JobSpec, State, Volume
from shellrunner.store import Head, IdempotencyKey
from shellrunner.store.columns import ClaimRow, EndRow, JobRow, NewJobRow, SecretsRow
from shellrunner.store.db import RowChangedError
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.queues import Capacity, Line
from shellrunner.store.sqlite import schema
from shellrunner.store.units import admission, claiming, dependents, idempotency_keys, lifecycle, locks
from shellrunner.store.units.admission import NewJob
from shellrunner.store.units.locks import LockedJob
from tests.support.histories import ended

pytestmark = pytest.mark.sqlite


class Interfering(sqlite3.Connection):
    """Executes another writer's statement right after a row was locked, as if there were no lock."""

    interference = ""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        cursor = super().execute(sql, parameters)
        if self.interference and sql == locks.LOCK:
            rows = cursor.fetchall()
            super().execute(self.interference)
            return super().execute(f"SELECT * FROM (VALUES ({', '.join('?' * len(rows[0]))}))", rows[0])
        return cursor


@pytest.fixture
def db() -> Iterator[Interfering]:
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=Interfering)) as db:
        schema.migrate(db)
        yield db


def add(db: Interfering, owner: SlotOwner | None = None, **spec: Any) -> int:
    (job,), _ = admission.add(db, [(NewJob.accept(JobSpec(command="true", **spec), 1), owner)])
    return job.id


def test_every_field_of_a_row_is_a_column(db: Interfering) -> None:
    """Each described row has only columns of its table, and the rows of jobs together have all that are read."""
    jobs = {row[1] for row in db.execute("PRAGMA table_info(jobs)")}
    attempts = {row[1] for row in db.execute("PRAGMA table_info(attempts)")}
    described: set[str] = set()
    for row in (NewJobRow, JobRow, EndRow, ClaimRow, LockedJob, SecretsRow):
        assert set(row.__annotations__) <= jobs, row
        described |= set(row.__annotations__)
    assert jobs - described <= {"paused"}
    assert set(EndRow.__annotations__) <= attempts


@pytest.mark.parametrize("state", ["done", "running"])
def test_a_decision_on_a_row_that_another_writer_changed_fails(db: Interfering, state: str) -> None:
    """A queued job that another writer ends or claims between the read and the write is not ended here as well."""
    job_id = add(db)
    db.interference = f"UPDATE jobs SET state = '{state}' WHERE id = {job_id}"
    with pytest.raises(RowChangedError):
        dependents.end_unstarted(db, job_id, End(Ending.CANCELLED, 5))


def test_a_cancelled_claim_that_another_writer_ended_is_not_requeued(db: Interfering) -> None:
    """Neither requeue nor another attempt changes a job whose claim went to somebody else meanwhile."""
    job_id = add(db, SlotOwner(1, "t"))
    db.interference = f"UPDATE jobs SET token = 'u' WHERE id = {job_id}"
    with pytest.raises(RowChangedError):
        lifecycle.requeue(db, job_id, "t", 5)
    db.interference = f"UPDATE jobs SET token = 'v' WHERE id = {job_id}"
    with pytest.raises(RowChangedError):
        lifecycle.finish(db, job_id, "u", end=ended(1), volume=Volume(), head=Head(), next_attempt_at=10)
    assert lifecycle.finish(db, job_id, "u", end=ended(1), volume=Volume(), head=Head()) == []


def test_a_deletion_of_a_job_that_is_not_done_any_more_fails(db: Interfering) -> None:
    """What was locked as done and is not is deleted neither with its result nor without."""
    job_id = add(db, SlotOwner(1, "t"))
    lifecycle.finish(db, job_id, "t", end=ended(), volume=Volume(), head=Head())
    db.interference = f"UPDATE jobs SET state = 'queued' WHERE id = {job_id}"
    for delete in (lifecycle.delete_result, lifecycle.delete_job):
        with pytest.raises(RowChangedError):
            delete(db, job_id)
        db.execute("UPDATE jobs SET state = 'done' WHERE id = ?", (job_id,))


def test_a_claim_passes_over_a_job_that_another_writer_took(db: Interfering) -> None:
    """A claim that finds its job taken goes on with the next one."""
    first, second = add(db), add(db)

    execute = db.execute

    def racing(sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if sql == claiming.CLAIM and parameters[-1] == first:
            execute("UPDATE jobs SET state = 'running' WHERE id = ?", (first,))
        return execute(sql, parameters)

    class Racing:
        execute = staticmethod(racing)
        executemany = db.executemany

    offer = SlotOwner(1, "t")
    lines, capacity = [Line("default", None)], Capacity({"default": 5}, {})
    result = claiming.choose(Racing(), [offer], capacity, lines, 9, unseal=lambda job_id, stored: {})
    assert [claim.job_id for claim in result.claims] == [second]


def test_a_dependent_that_was_cancelled_is_not_counted_down(db: Interfering) -> None:
    """The end of a job neither queues nor skips a dependent that does not wait any more."""
    first = add(db, SlotOwner(1, "t"))
    second = add(db, after=(first,))
    assert locks.locked(db, second).state is State.WAITING
    db.execute("UPDATE jobs SET state = 'done', ending = 'cancelled' WHERE id = ?", (second,))
    transitions = lifecycle.finish(db, first, "t", end=ended(0), volume=Volume(), head=Head())
    assert [transition.job_id for transition in transitions] == [first]


def test_a_key_is_replaced_only_when_it_has_expired(db: Interfering) -> None:
    """A key that another writer added meanwhile is not overwritten; one that has expired is."""
    key = IdempotencyKey("who", "k", b"one")
    idempotency_keys.add(db, key, 1, 1_000, 1_000)
    with pytest.raises(RowChangedError):
        idempotency_keys.add(db, IdempotencyKey("who", "k", b"two"), 2, 2_000, 2_000)
    with pytest.raises(JobGone):
        idempotency_keys.find(db, key, 2_000, 1)
    later = 1_000 + idempotency_keys.LIFETIME
    assert idempotency_keys.find(db, key, later, 1) == []
    idempotency_keys.add(db, IdempotencyKey("who", "k", b"two"), 2, later, later)
    with pytest.raises(KeyReused):
        idempotency_keys.find(db, key, later + 1, 1)
