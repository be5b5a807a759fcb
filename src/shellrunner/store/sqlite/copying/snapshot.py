"""A history of one moment, copied beside a running server, and what a copy needs before it may be used as a history.

Used by the package `backup`. Knows rows; must not know slots, spill files or manifests.
"""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple
from urllib.parse import quote

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.keeper.slot import DATA_CAPACITY, ENTRY_SIZE, INDEX_CAPACITY
from shellrunner.model import End, Volume
from shellrunner.store.output import Head
from shellrunner.store.sqlite import provenance, schema, secrets_upgrade
from shellrunner.store.units import lifecycle, queue_pauses

# ruff: noqa: S608  every statement here is put together from constants of this program

_HAS_RESULT: Final = "SELECT 1 FROM jobs WHERE id = ? AND (state != 'done' OR stdout_bytes IS NOT NULL)"
_SPILLED: Final = f"""
    SELECT id, attempt, token, stdout_bytes + stderr_bytes - {DATA_CAPACITY} FROM jobs
        WHERE state = 'done' AND stdout_bytes + stderr_bytes > {DATA_CAPACITY}
    UNION ALL SELECT job, number, token, stdout_bytes + stderr_bytes - {DATA_CAPACITY} FROM attempts
        WHERE stdout_bytes + stderr_bytes > {DATA_CAPACITY}
    UNION ALL SELECT job, attempt, token, 0 FROM outputs JOIN jobs ON jobs.id = outputs.job
        WHERE length(entries) >= {ENTRY_SIZE * INDEX_CAPACITY}
    UNION ALL SELECT job, number, token, 0 FROM attempts WHERE length(entries) >= {ENTRY_SIZE * INDEX_CAPACITY}"""


class RunningJobRow(NamedTuple):
    """A job that was running at the snapshot, and the slot to which its output went."""

    id: int
    keeper: int
    token: str
    attempt: int


class SpilledOutput(NamedTuple):
    """An ended attempt that may have spill files, the token in their names, how many bytes its row promises there."""

    job: int
    attempt: int
    token: str | None
    size: int


class HistoryFacts(NamedTuple):
    """What a manifest says about a history: its id, schema and generation, the highest id given out, its jobs."""

    history: str
    schema: int
    generation: int | None
    last_id: int
    jobs: int


class LiveHistory:
    """A history that a server may be writing to, of any schema that this program knows."""

    def __init__(self, db: sqlite3.Connection, version: int) -> None:
        self._db = db
        self._latest = "attempt" if version > 1 else "1"

    def copy_to(self, target: str) -> Millis:
        """Copy the history as of one moment into an empty file, and return the moment.

        Without the pages that are free: those may have secrets of jobs that have ended.
        """
        moment = now_ms()
        with _translated(target):
            self._db.execute("VACUUM INTO ?", (target,))
        return moment

    def ended_attempts(self, attempts: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
        """Return those of the attempts (job, number) that have ended and still have their output."""
        return {attempt for attempt in attempts if _has_ended(self._db, *attempt, latest=self._latest)}

    def has_result(self, job_id: int) -> bool:
        """Return whether the job is still there, with its result if it is done."""
        return self._db.execute(_HAS_RESULT, (job_id,)).fetchone() is not None

    def exists(self, job_id: int) -> bool:
        """Return whether the job is still there."""
        return self._db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None

    def last_id(self) -> int:
        """Return the highest job id that was ever given out."""
        return _last_id(self._db)


class HistoryCopy:
    """A copied history, opened for changes; nobody else has it. What is changed is written at the end of `open_copy`.

    Units of one server run here as well, so a copy is always of the current schema.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def running(self) -> list[RunningJobRow]:
        """Return the jobs that were running."""
        found = self._db.execute("SELECT id, keeper, token, attempt FROM jobs WHERE state = 'running'")
        return [RunningJobRow._make(row) for row in found.fetchall()]

    def end_running(self, row: RunningJobRow, end: End, volume: Volume, head: Head) -> None:
        """End a running job, with the consequences for the jobs that wait for it."""
        lifecycle.finish(self._db, row.id, row.token, end=end, volume=volume, head=head)

    def ended_attempts(self, attempts: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
        """Return those of the attempts (job, number) that have ended and have their output."""
        return {attempt for attempt in attempts if _has_ended(self._db, *attempt)}

    def spilled(self) -> list[SpilledOutput]:
        """Return the attempts that may have spill files."""
        return [SpilledOutput._make(row) for row in self._db.execute(_SPILLED).fetchall()]

    def delete(self, job_id: int, *, result_only: bool) -> None:
        """Delete a job that is done, or its result, as the server has done since the copy was made."""
        (lifecycle.delete_result if result_only else lifecycle.delete_job)(self._db, job_id)

    def drop_plain_secrets(self) -> None:
        """Remove secrets that an earlier version has not sealed: without them, those jobs fail to start."""
        secrets_upgrade.drop_plain_text(self._db)

    def end_sessions(self) -> None:
        """Delete all sessions: one that has been ended since must not return."""
        self._db.execute("DELETE FROM sessions")

    def hold(self, last_id: int, reason: str) -> None:
        """Hold the history until an admin resumes, and let ids continue above `last_id`."""
        queue_pauses.hold(self._db, reason, now_ms())
        provenance.raise_ids(self._db, last_id)

    def facts(self) -> HistoryFacts:
        """Return what a manifest says about the history."""
        generation = self._db.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'generation'").fetchone()
        (jobs,) = self._db.execute("SELECT count(*) FROM jobs").fetchone()
        return HistoryFacts(
            schema.history_id(self._db),
            schema.examine(self._db),
            generation[0] if generation else None,
            _last_id(self._db),
            jobs,
        )


@contextmanager
def open_live(path: str) -> Iterator[LiveHistory]:
    """Open a history that a server may be using, for reading.

    The connection is read-only, so that it never checkpoints, not even when it is the last one to close: SQLite
    before 3.51.3 can corrupt a WAL if two connections do.

    Raises:
        StoreUnavailable: it cannot be read, or is of another program or a newer version.
    """
    with _translated(path):
        db = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)
        try:
            db.executescript("PRAGMA busy_timeout=5000; PRAGMA temp_store=MEMORY;")
            version = schema.examine(db)
            if version == 0:
                raise StoreUnavailable("it is empty")
            yield LiveHistory(db, version)
        finally:
            db.close()


@contextmanager
def open_copy(path: str) -> Iterator[HistoryCopy]:
    """Open a copy for changes, migrated to the current schema, and check it; commit them at the end.

    Raises:
        StoreUnavailable: it cannot be read or written, or is damaged.
    """
    with _translated(path):
        db = sqlite3.connect(path, isolation_level=None)
        try:
            # What is overwritten or deleted leaves no trace in the file; durability is the caller's part.
            db.executescript("PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA secure_delete=ON;")
            schema.examine(db)
            problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise StoreUnavailable(f"it is damaged: {problem}")
            schema.migrate(db)
            db.execute("BEGIN IMMEDIATE")
            yield HistoryCopy(db)
            db.execute("COMMIT")
        finally:
            db.close()


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path}: {error}") from error


def _has_ended(db: sqlite3.Connection, job_id: int, attempt: int, latest: str = "attempt") -> bool:
    row = db.execute(f"SELECT state, {latest}, stdout_bytes FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        return False
    state, current, stored = row
    return stored is not None if state == "done" else attempt < current


def _last_id(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'").fetchone()
    (highest,) = db.execute("SELECT coalesce(max(id), 0) FROM jobs").fetchone()
    return max(int(row[0]) if row else 0, int(highest))
