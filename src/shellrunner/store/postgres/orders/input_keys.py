"""The keys that seal what is typed into a job while it waits in `orders` for the host that runs the job.

It is the key of the job's other secrets; a job that has none gets one with its first input. Either is destroyed when
the job has ended for good, so what is left of the rows in files of the database, or in dumps of it, says nothing.
Units of the store; used by `order_rows`, on the thread of a connection. Must not know orders.
"""

from typing import Final

from shellrunner.sealing import sealed_text
from shellrunner.sealing.key_files import KeyUnusable
from shellrunner.store.db import Db
from shellrunner.store.postgres.secrets_reading import create_key

_MAX_KNOWN: Final = 256  # jobs
# The lock makes a second node wait, and see what the first one has named; its key may not be visible yet.
_MAKE: Final = """WITH job AS (SELECT id, secrets, coalesce(nullif(split_part(secrets, ':', 2), ''), ?) AS name
        FROM jobs WHERE id = ? AND state = 'running' AND host <> ? FOR UPDATE),
    named AS (UPDATE jobs SET secrets = ? FROM job WHERE jobs.id = job.id AND job.secrets IS NULL),
    added AS (INSERT INTO job_keys (name, key) SELECT name, ?::bytea FROM job ON CONFLICT (name) DO NOTHING
        RETURNING key)
    SELECT coalesce((SELECT key FROM added), (SELECT key FROM job_keys WHERE name = (SELECT name FROM job)))
    FROM job"""


class InputKeys:
    """The keys of jobs that run at other hosts, as far as this node has needed them."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._known: dict[int, bytes] = {}

    def seal(self, db: Db, job_id: int, data: bytes) -> bytes | None:
        """Return the bytes as the host of a job can read them; None: no other host runs it, or look again."""
        key = self._known.get(job_id) or self._make(db, job_id)
        return sealed_text.seal_input(data, key, job_id) if key else None

    def forget(self, job_id: int) -> None:
        """Look a key up again: the host of the job could not read what was sealed with it."""
        self._known.pop(job_id, None)

    def _make(self, db: Db, job_id: int) -> bytes | None:
        new = create_key()
        values = (new.name, job_id, self._host, sealed_text.key_only(new), new.secret)
        row = db.execute(_MAKE, values).fetchone()
        if row is None or row[0] is None:
            return None
        while len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return self._known.setdefault(job_id, bytes(row[0]))


def unseal(job_id: int | None, data: bytes | None, key: bytes | None) -> bytes | None:
    """Return what another node has sealed; None if it cannot be read: the database has forgotten the key."""
    if data is None or job_id is None:
        return b""
    try:
        return sealed_text.unseal_input(bytes(data), bytes(key), job_id) if key else None
    except KeyUnusable:
        return None
