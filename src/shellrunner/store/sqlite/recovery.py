"""Opening a history: its directories, whether the file is one of ours, and what a crash left beside it.

Runs on the writing connection's thread, before anything else. Never overwrites what it does not understand.
"""

import logging
import os
import sqlite3
import time
from contextlib import suppress

from shellrunner.errors import StoreUnavailable
from shellrunner.model import State
from shellrunner.store import HistorySize
from shellrunner.store.output import spill
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.sqlite import schema, trimmer
from shellrunner.store.sqlite.db_thread import open_writing
from shellrunner.store.units import queue_pauses, rows

_log = logging.getLogger(__name__)

_ALIVE = "SELECT 1 FROM jobs WHERE id = ? AND (state != 'done' OR stdout_bytes IS NOT NULL)"


class Recovery:
    """What is known of a history once `open` was called."""

    def __init__(self, state: str) -> None:
        self.path = f"{state}/history.db"
        self.history = ""
        self.kept = HistorySize(0, 0)
        self.owners: dict[int, SlotOwner] = {}
        self.undone: list[tuple[str, State, int]] = []
        self.paused: frozenset[str] = frozenset()
        self._state = state

    def open(self) -> sqlite3.Connection:
        """Open the writing connection to a history of today's schema, with nothing orphaned beside it.

        Raises:
            StoreUnavailable: it cannot be; the words name the file and what to do.
        """
        try:
            self._make()
            db = open_writing(self.path, schema.examine)
            try:
                self._take_up(db)
            except BaseException:
                db.close()
                raise
        except (OSError, sqlite3.Error, StoreUnavailable) as error:
            raise StoreUnavailable(
                f"{self.path} cannot be opened as a history: {error}. It was left as it is: "
                "mend the cause, restore it from a backup, or move it away to begin a new history"
            ) from error
        return db

    def _make(self) -> None:
        """Create what is missing, for this user alone."""
        for name in ("", "/slots", "/runs"):
            os.makedirs(self._state + name, mode=0o700, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        directory = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _take_up(self, db: sqlite3.Connection) -> None:
        if schema.examine(db) == 0:
            self._set_runs_aside()
        schema.migrate(db)
        self.history = schema.history_id(db)
        self.kept = trimmer.count(db)
        self.undone = [(queue, State(state), number) for queue, state, number in db.execute(rows.UNDONE)]
        self.paused = queue_pauses.read(db)
        self.owners = {
            job: SlotOwner(keeper, token, attempt)
            for job, token, keeper, _, _, _, attempt, *_ in db.execute(rows.RUNNING)
        }
        for job, attempts in spill.find_all(self._state).items():
            if db.execute(_ALIVE, (job,)).fetchone() is None:
                spill.remove(self._state, job, attempts)

    def _set_runs_aside(self) -> None:
        """Outputs of another history may be wanted when that one is found again, and its ids are used anew here."""
        with suppress(OSError):
            os.rmdir(f"{self._state}/runs")
            os.mkdir(f"{self._state}/runs", 0o700)
            return
        aside = f"{self._state}/runs.{time.time_ns()}"
        os.rename(f"{self._state}/runs", aside)
        os.mkdir(f"{self._state}/runs", 0o700)
        _log.warning("output of another history was set aside in %s", aside)
