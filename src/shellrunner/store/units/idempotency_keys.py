"""Idempotency-Keys: which job each stands for, in the commit that accepts it.

Units for the writer, used by the store. Must not know HTTP.
"""

import sqlite3
from typing import Final

from shellrunner.clock import Millis
from shellrunner.errors import JobGone, KeyReused, NoSuchJob
from shellrunner.model import Job
from shellrunner.store import IdempotencyKey
from shellrunner.store.units import rows

KEPT: Final = 24 * 3_600_000  # milliseconds
_STEP: Final = 200

FIND: Final = "SELECT digest, job FROM keys WHERE identity = ? AND key = ? AND created > ?"
EXPIRED: Final = "SELECT identity, key FROM keys INDEXED BY keys_created WHERE created <= ? LIMIT ?"


def find(db: sqlite3.Connection, key: IdempotencyKey, now: Millis) -> Job | None:
    """The job that was accepted with this key, if any.

    Raises:
        KeyReused, JobGone.
    """
    row = db.execute(FIND, (key.identity, key.key, now - KEPT)).fetchone()
    if row is None:
        return None
    digest, job_id = row
    if digest != key.digest:
        raise KeyReused
    try:
        return rows.job(db, job_id)
    except NoSuchJob:
        raise JobGone(job_id) from None


def keep(db: sqlite3.Connection, key: IdempotencyKey, job_id: int, now: Millis) -> None:
    """Let the key stand for the job (and for no earlier one)."""
    db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)", (key.identity, key.key, key.digest, job_id, now))


def expire(db: sqlite3.Connection, now: Millis) -> int:
    """Forget some of the keys that are too old; how many it were."""
    old = db.execute(EXPIRED, (now - KEPT, _STEP)).fetchall()
    db.executemany("DELETE FROM keys WHERE identity = ? AND key = ?", old)
    return len(old)
