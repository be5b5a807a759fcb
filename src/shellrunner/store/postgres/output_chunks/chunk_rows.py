"""The rows of `chunks`: units of the store that say how far an output was sent, add to it, and remove it.

Used by the sender, by readers, and by those who record the end of a job whose host is gone. Must not know files.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from shellrunner.keeper.slot import ENTRY_SIZE
from shellrunner.model import Volume
from shellrunner.store.db import Db

_SENT: Final = f"""SELECT position + length, stdout + stdout_length,
    first_entry + octet_length(entries) / {ENTRY_SIZE}, missing
    FROM chunks WHERE job = ? AND attempt = ? ORDER BY position DESC LIMIT 1"""  # noqa: S608
# No later chunk becomes visible once this has returned, as each sender holds a lock that this one waits for.
_LOCK: Final = "SELECT FROM jobs WHERE id = ? FOR UPDATE"
# Of a job that runs, or is lost and has a result: a witness that returns may add what was not sent before.
_HELD: Final = "(state = 'running' OR ending = 'lost' AND stdout_bytes IS NOT NULL)"
_GUARD: Final = f"""SELECT id, token, attempt, keeper FROM jobs WHERE id = ANY(?) AND {_HELD} ORDER BY id
    FOR KEY SHARE"""  # noqa: S608
_ADD: Final = """INSERT INTO chunks (job, attempt, position, length, stdout, stdout_length, missing, first_entry,
    entries, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_DISCARDED: Final = "SELECT job FROM discarded_outputs LIMIT 1 FOR UPDATE SKIP LOCKED"
_REMOVE: Final = """DELETE FROM chunks WHERE (job, attempt, position) IN
    (SELECT job, attempt, position FROM chunks WHERE job = ? LIMIT ?)"""
_REMOVED: Final = "DELETE FROM discarded_outputs WHERE job = ?"
_MAX_REMOVED: Final = 64  # chunks in one transaction: at most 16 MiB


class Sent(NamedTuple):
    """How far an attempt's output was sent: its volume there, its index entries, and how many bytes are missing."""

    volume: Volume = Volume()
    entries: int = 0
    missing: int = 0


class OutputChunk(NamedTuple):
    """A piece of output of both streams, with the index entries that belong to it (see `schema`)."""

    position: int
    stdout: int
    stdout_length: int
    missing: int
    first_entry: int
    entries: bytes
    data: bytes

    @property
    def sent(self) -> Sent:
        """How far the output was sent when this is the last chunk."""
        stdout, position = self.stdout + self.stdout_length, self.position + len(self.data)
        volume = Volume(stdout, position - stdout)
        return Sent(volume, self.first_entry + len(self.entries) // ENTRY_SIZE, self.missing)


class Holder(NamedTuple):
    """Who may add to a job's output: the claim token, its attempt, and the keeper whose slot has the output."""

    token: str
    attempt: int
    keeper: int


def sent(db: Db, job_id: int, attempt: int) -> Sent:
    """Return how far the output of an attempt was sent."""
    row = db.execute(_SENT, (job_id, attempt)).fetchone()
    if row is None:
        return Sent()
    end, stdout, entries, missing = row
    return Sent(Volume(stdout, end - stdout), entries, missing)


def sent_volume(db: Db, job_id: int, attempt: int) -> Volume:
    """Return how much of an attempt's output was sent, and let no more be sent until the end of the transaction.

    For an ending that is recorded by another node than the one that ran the job: its volume is what was sent.
    """
    db.execute(_LOCK, (job_id,)).fetchall()
    return sent(db, job_id, attempt).volume


def hold(db: Db, job_ids: Sequence[int]) -> dict[int, Holder]:
    """Return who may add to the output of these jobs, and let that stay so until the end of the transaction."""
    return {job_id: Holder(*row) for job_id, *row in db.execute(_GUARD, (sorted(job_ids),)).fetchall()}


def add(db: Db, chunks: Sequence[tuple[int, int, OutputChunk]]) -> None:
    """Add chunks, each with its job and attempt.

    Raises:
        psycopg.errors.UniqueViolation: somebody else has sent from this position on.
    """
    db.executemany(
        _ADD,
        [
            (job_id, attempt, chunk.position, len(chunk.data), *chunk[1:5], chunk.entries, chunk.data)
            for job_id, attempt, chunk in chunks
        ],
    )


def remove_discarded(db: Db) -> bool:
    """Remove some chunks of a job whose result was deleted; return whether there may be more to remove."""
    row = db.execute(_DISCARDED).fetchone()
    if row is None:
        return False
    if db.execute(_REMOVE, (row[0], _MAX_REMOVED)).rowcount < _MAX_REMOVED:
        db.execute(_REMOVED, (row[0],))
    return True
