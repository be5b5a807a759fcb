"""A whole history that no server uses, read row by row: what an import into another back end takes over.

Used by the package `backup`, which holds the lock of the state directory meanwhile. Writes nothing. Must not know
where the rows go, or what is in files.
"""

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Volume
from shellrunner.store.output import Head
from shellrunner.store.output.location import FULL_INDEX, Recorded
from shellrunner.store.sqlite import provenance, schema, secrets_upgrade
from shellrunner.store.sqlite.copying.snapshot import RunningJobRow

# ruff: noqa: S608  every statement here is put together from constants of this program

_RUNNING: Final = "SELECT id, keeper, token, attempt FROM jobs WHERE state = 'running' ORDER BY id"
_FIGURES: Final = "stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped"
_NOT_WHOLE: Final = f"""(stdout_bytes + stderr_bytes > coalesce(length(data), 0)
    OR coalesce(length(entries), 0) >= {FULL_INDEX})"""
_SPILLED: Final = f"""SELECT id, attempt, token, {_FIGURES}, data, entries
    FROM jobs LEFT JOIN outputs ON outputs.job = jobs.id
    WHERE state = 'done' AND stdout_bytes IS NOT NULL AND {_NOT_WHOLE}
    UNION ALL SELECT job, number, token, {_FIGURES}, data, entries FROM attempts WHERE {_NOT_WHOLE}"""
_UPGRADE: Final = "start a server of this version here once and stop it, then import again"


class HistoryMeta(NamedTuple):
    """What a history says of itself; see `schema`. held: JSON, empty if it is not held."""

    history: str
    generation: int
    last_id: int
    unknown_input_up_to: int
    held: str


class StoppedHistory:
    """The rows as they were left."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def meta(self) -> HistoryMeta:
        """Return what the history says of itself."""
        return HistoryMeta(
            schema.history_id(self._db),
            int(provenance.read_meta(self._db, "generation") or 0),
            provenance.last_id(self._db),
            int(provenance.read_meta(self._db, "unknown_input_up_to") or 0),
            provenance.read_meta(self._db, "held"),
        )

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns, in the order in which `rows` has them."""
        return [str(row[1]) for row in self._db.execute(f"PRAGMA table_info({table})")]

    def rows(self, table: str, columns: Sequence[str], where: str = "TRUE") -> Generator[tuple[Any, ...]]:
        """Yield these columns of a table's rows, as they are read."""
        yield from self._db.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE {where}")

    def query(self, sql: str) -> tuple[Any, ...]:
        """Return the one row of a query."""
        row: tuple[Any, ...] = self._db.execute(sql).fetchone()
        return row

    def running(self) -> list[RunningJobRow]:
        """Return the jobs that run by the history."""
        return [RunningJobRow._make(row) for row in self._db.execute(_RUNNING)]

    def spilled(self) -> Iterator[tuple[int, int, Recorded]]:
        """Yield the job and attempt of each output that is not all in its row, and what the row has."""
        for job_id, attempt, token, *figures, data, entries in self._db.execute(_SPILLED):
            yield job_id, attempt, Recorded(Volume(*figures), Head(data or b"", entries or b""), token)


@contextmanager
def open_stopped(path: str) -> Iterator[StoppedHistory]:
    """Open a history for reading, all of it as of one moment.

    Raises:
        StoreUnavailable: it cannot be read, or is not of the current schema.
    """
    try:
        db = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)
        try:
            version = schema.examine(db)
            if version < len(schema.MIGRATIONS) or not secrets_upgrade.progress(db):
                raise StoreUnavailable(f"{path} is of an earlier version: {_UPGRADE}")
            db.execute("BEGIN")
            yield StoppedHistory(db)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path} cannot be read: {error}") from error
