"""Idempotency-Keys: which job, or batch of jobs, each stands for, written in the commit that accepts them.

A row has the id of the first; the ids of a batch are consecutive, and their number is known from the request: one
with an equal body has as many. Units for the writer, called by `sqlite.add_jobs`. Must not know HTTP.
"""

from operator import attrgetter
from typing import Final

from shellrunner.clock import Millis
from shellrunner.errors import JobGone, KeyReused
from shellrunner.model import Job
from shellrunner.store import rows
from shellrunner.store.db import Db, check_changed
from shellrunner.store.values import IdempotencyKey

LIFETIME: Final = 24 * 3_600_000  # milliseconds
_BATCH_SIZE: Final = 200  # keys that are deleted in one commit

FIND: Final = "SELECT digest, job FROM keys WHERE identity = ? AND key = ? AND created > ?"
EXPIRED: Final = "SELECT identity, key FROM keys INDEXED BY keys_created WHERE created <= ? LIMIT ?"
_ADD: Final = """INSERT INTO keys (identity, key, digest, job, created) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (identity, key) DO UPDATE SET digest = excluded.digest, job = excluded.job, created = excluded.created
    WHERE keys.created <= ?"""


def find(db: Db, key: IdempotencyKey, now: Millis, count: int) -> list[Job]:
    """Return the jobs that were accepted with this key, which are `count` if it was used; else none.

    Raises:
        KeyReused, JobGone.
    """
    row = db.execute(FIND, (key.identity, key.key, now - LIFETIME)).fetchone()
    if row is None:
        return []
    digest, first = row
    if digest != key.digest:
        raise KeyReused
    batch = range(first, first + count)
    jobs = sorted(rows.jobs(db, list(batch)), key=attrgetter("id"))
    if len(jobs) < count:
        raise JobGone(min({*batch} - {job.id for job in jobs}), batch)
    return jobs


def add(db: Db, key: IdempotencyKey, job_id: int, created: Millis, now: Millis) -> None:
    """Let the key stand for the job, or the batch that begins with it.

    Only an expired key is replaced; `find` has found no other.
    """
    row = (key.identity, key.key, key.digest, job_id, created)
    check_changed(db.execute(_ADD, (*row, now - LIFETIME)))


def delete_expired(db: Db, now: Millis) -> int:
    """Delete some of the expired keys; return how many."""
    expired = db.execute(EXPIRED, (now - LIFETIME, _BATCH_SIZE)).fetchall()
    db.executemany("DELETE FROM keys WHERE identity = ? AND key = ?", expired)
    return len(expired)
