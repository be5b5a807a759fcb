"""The guard of units that decide on a job: read its row so that it stays as it was read until the commit.

Used by the other units. A plain SELECT in SQLite, which has one writer; SELECT FOR UPDATE in a database with several.
Must not write.
"""

from typing import Final, NamedTuple

from shellrunner.clock import Millis
from shellrunner.errors import NoSuchJob
from shellrunner.model import State
from shellrunner.store.columns import columns
from shellrunner.store.db import Db
from shellrunner.store.query import search

# ruff: noqa: S608  every statement here is put together from constants of this module


class LockedJob(NamedTuple):
    """The columns of `jobs` on which units decide."""

    state: State
    queue: str
    submitter: str | None
    attempt: int
    token: str | None
    cancelling: int
    has_dependents: int
    name: str | None
    held: int
    due: Millis | None
    ending: str | None
    exit_code: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    command: str
    spec: str

    @property
    def stored(self) -> int | None:
        """Bytes of output of the last attempt; None if there is no result."""
        return None if self.stdout_bytes is None else self.stdout_bytes + (self.stderr_bytes or 0)

    @property
    def text(self) -> str:
        """What is searched of it."""
        return search.text_of(self.name, self.command)

    def is_held_by(self, token: str) -> bool:
        """Return whether the job is running under this claim token."""
        return self.state is State.RUNNING and self.token == token


LOCK: Final = f"SELECT {columns(LockedJob)} FROM jobs WHERE id = ?"


def find_locked(db: Db, job_id: int) -> LockedJob | None:
    """Return the job's row, locked until the end of the transaction; None if there is no such job."""
    row = db.execute(LOCK, (job_id,)).fetchone()
    return None if row is None else LockedJob(State(row[0]), *row[1:])


def locked(db: Db, job_id: int) -> LockedJob:
    """Return the job's row, locked until the end of the transaction.

    Raises:
        NoSuchJob: there is none.
    """
    job = find_locked(db, job_id)
    if job is None:
        raise NoSuchJob(job_id)
    return job
