"""Opening a history: its directories, whether the file is one of ours, and what a crash left beside it.

Runs on the thread of the writing connection, before anything else. Never overwrites what it does not understand.
"""

import logging
import os
import sqlite3
import time
from contextlib import suppress
from typing import Final

from shellrunner.clock import boot_ms, now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.keeper.identity import boot_id
from shellrunner.model import State
from shellrunner.store import HistorySize, rows
from shellrunner.store.columns import ClaimRow
from shellrunner.store.output import spill
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.seen_time import SeenTime
from shellrunner.store.sqlite import schema
from shellrunner.store.sqlite.engine.db_thread import open_writing
from shellrunner.store.sqlite.engine.history_files import HistoryFiles
from shellrunner.store.units import clock_marks, queue_pauses, trimming

_log = logging.getLogger(__name__)

_PROGRESS_INTERVAL: Final = 10_000  # instructions of SQLite's virtual machine, under a millisecond
_HAS_OUTPUT: Final = "SELECT 1 FROM jobs WHERE id = ? AND (state != 'done' OR stdout_bytes IS NOT NULL)"


class HistoryOpener:
    """What is known of a history once `open` was called.

    size: of the done jobs. owners: who has claimed each running job. undone: how many jobs are not done, by queue and
    state. paused: the queues that are. files: those that are open. seen_time: since the last opening.
    """

    def __init__(self, state_dir: str) -> None:
        self.path = f"{state_dir}/history.db"
        self.history_id = ""
        self.size = HistorySize(0, 0)
        self.owners: dict[int, SlotOwner] = {}
        self.undone: list[tuple[str, State, int]] = []
        self.paused: frozenset[str] = frozenset()
        self.files: HistoryFiles
        self.seen_time: SeenTime
        self._state_dir = state_dir
        self._is_interrupted = False

    def interrupt(self) -> None:
        """Have `open`, on another thread, fail soon; what is done by then is as good as after a crash."""
        self._is_interrupted = True

    def open(self) -> sqlite3.Connection:
        """Open the writing connection to a history of the current schema; remove files that belong to no job.

        Raises:
            StoreUnavailable: it cannot be opened; the message names the file and what to do.
        """
        try:
            self._create_missing()
            db = open_writing(self.path, schema.examine)
            try:
                # A migration of a large history takes minutes; systemd would kill a server that goes on with it.
                db.set_progress_handler(lambda: self._is_interrupted, _PROGRESS_INTERVAL)
                self._load(db)
                self._remove_orphans(db)
                db.set_progress_handler(None, 0)
                self.files = HistoryFiles(self.path)
            except BaseException:
                db.close()
                raise
        except (OSError, sqlite3.Error, StoreUnavailable) as error:
            raise StoreUnavailable(
                f"{self.path} cannot be opened as a history: {error}. The file was not changed: "
                "fix the cause, restore it from a backup, or move it away to start a new history"
            ) from error
        return db

    def _create_missing(self) -> None:
        """Create what is missing, for this user alone."""
        for name in ("", "/slots", "/runs"):
            os.makedirs(self._state_dir + name, mode=0o700, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        directory = os.open(self._state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _load(self, db: sqlite3.Connection) -> None:
        if schema.examine(db) == 0:
            self._set_spill_files_aside()
        schema.migrate(db)
        self.history_id = schema.history_id(db)
        self.size = trimming.measure(db)
        self.undone = [(queue, State(state), number) for queue, state, number in db.execute(rows.UNDONE)]
        self.paused = queue_pauses.read(db)
        self.seen_time = SeenTime(clock_marks.read(db), clock_marks.newest(db), boot_id(), now_ms(), boot_ms())
        for row in map(ClaimRow._make, db.execute(rows.RUNNING)):
            self.owners[row.id] = SlotOwner(row.keeper, row.token, row.attempt)

    def _remove_orphans(self, db: sqlite3.Connection) -> None:
        """Remove spill files of jobs that were deleted, or whose result was, when a crash came between."""
        for job_id, attempts in spill.find_all(self._state_dir).items():
            if self._is_interrupted:
                raise StoreUnavailable("the opening was interrupted")
            if db.execute(_HAS_OUTPUT, (job_id,)).fetchone() is None:
                spill.remove(self._state_dir, job_id, attempts)

    def _set_spill_files_aside(self) -> None:
        """Move the spill files of another history away: they may be needed, and a new history uses the same ids."""
        with suppress(OSError):
            os.rmdir(f"{self._state_dir}/runs")
            os.mkdir(f"{self._state_dir}/runs", 0o700)
            return
        aside = f"{self._state_dir}/runs.{time.time_ns()}"
        os.rename(f"{self._state_dir}/runs", aside)
        os.mkdir(f"{self._state_dir}/runs", 0o700)
        _log.warning("output of another history was set aside in %s", aside)
