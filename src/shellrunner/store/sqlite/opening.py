"""Opening a history: whether the file is one of ours, whether it is as it was left, what a crash left beside it.

Runs on the thread of the writing connection, before anything else. Never overwrites what it does not understand.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Mapping
from typing import Final

from shellrunner.clock import boot_ms, now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.keeper.identity import boot_id
from shellrunner.model import State
from shellrunner.sealing import key_files
from shellrunner.sealing.digest_key import DigestKey
from shellrunner.sealing.key_files import KeyFiles
from shellrunner.store import HistoryIdentity, Pauses, rows
from shellrunner.store.columns import ClaimRow
from shellrunner.store.components.seen_time import SeenTime
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.output.spill import SpillFile
from shellrunner.store.queues import Line, QueueLimit
from shellrunner.store.sqlite import main_file, provenance, schema, secrets_upgrade
from shellrunner.store.sqlite.clock import clock_marks
from shellrunner.store.sqlite.engine.db_thread import open_reading, open_snapshot, open_writing
from shellrunner.store.sqlite.engine.disk_reserve import is_full, make_room
from shellrunner.store.sqlite.engine.history_files import HistoryFiles
from shellrunner.store.sqlite.key_inventory import KeyInventory
from shellrunner.store.state_files import traces
from shellrunner.store.state_files.high_water import HighWater, HighWaterFile
from shellrunner.store.state_files.high_water import remove as remove_high_water
from shellrunner.store.state_files.home import Home, file_identity
from shellrunner.store.state_files.traces import Traces
from shellrunner.store.units import queue_limits, queue_pauses

_log = logging.getLogger(__name__)

_PROGRESS_INTERVAL: Final = 10_000  # instructions of SQLite's virtual machine, under a millisecond
_HAVE_OUTPUT: Final = """SELECT jobs.id, token FROM json_each(?) AS wanted CROSS JOIN jobs ON jobs.id = wanted.value
    WHERE state != 'done' OR stdout_bytes IS NOT NULL"""
_TOKENS: Final = "SELECT token FROM attempts WHERE job = ?"
_NO_SPACE: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class HistoryRefused(StoreUnavailable):
    """The history is missing or another one, and what lies beside it speaks of a history that was here."""


class HistoryOpener:
    """What is known of a history once `open` was called.

    identity: of the history. owners: who has claimed each running job. undone: how many jobs are not done, by queue
    and state. pauses: the queues that are paused. queue_limits: those that were set at run time.
    unknown_input_up_to: see `store.History`. high_water: how far the history has come. files: those that are open.
    seen_time: since the last opening. keys: of the jobs that are not done. as_opened: a connection that goes on
    seeing the history as it was opened.

    Nothing here takes longer with every job that is done, so that a server with a long history is ready as soon.
    """

    def __init__(self, state_dir: str, *, new_history: bool = False) -> None:
        """With `new_history`, traces of another history are set aside instead of refused."""
        self.path = f"{state_dir}/history.db"
        self.identity = HistoryIdentity("", 0)
        self.owners: dict[int, SlotOwner] = {}
        self.undone: list[tuple[Line, State, int]] = []
        self.pauses = Pauses()
        self.queue_limits: dict[str, QueueLimit] = {}
        self.unknown_input_up_to = 0
        self.high_water: HighWaterFile
        self.files: HistoryFiles
        self.seen_time: SeenTime
        self.as_opened: sqlite3.Connection
        self.keys = KeyInventory(KeyFiles(state_dir), DigestKey(state_dir))
        self._state_dir, self._new_history = state_dir, new_history
        self._is_interrupted = self._is_open = False

    def interrupt(self) -> None:
        """Have `open`, on another thread, fail soon; what is done by then is as good as after a crash."""
        self._is_interrupted = True

    def close(self) -> None:
        """Close what is open beside the connections, after them."""
        if self._is_open:
            self.as_opened.close()
            self.files.close()

    def open(self) -> sqlite3.Connection:
        """Open the writing connection to a history of the current schema; remove files that belong to no job.

        Raises:
            StoreUnavailable: it cannot be opened; the message names the file and what to do.
        """
        try:
            self._create_directories()
            make_room(f"{self._state_dir}/ballast")
            found = traces.read(self._state_dir)
            replaced = self._examine_files(found)
            self._create_file()
            db = open_writing(self.path, lambda db: self._examine(db, found))
            try:
                # A migration of a large history takes minutes; systemd would kill a server that goes on with it.
                db.set_progress_handler(lambda: self._is_interrupted, _PROGRESS_INTERVAL)
                self._load(db, found, replaced=replaced)
                db.set_progress_handler(None, 0)
                self.files = HistoryFiles(self.path)
                self.as_opened = open_snapshot(self.path)
                self._is_open = True
            except BaseException:
                db.close()
                raise
        except HistoryRefused:
            raise
        except (OSError, sqlite3.Error, MemoryError, StoreUnavailable) as error:
            reason = str(error) or "out of memory"
            if is_full(self._state_dir):  # whatever SQLite says: disk I/O error, unable to open, …
                raise StoreUnavailable(
                    f"{self.path} cannot be opened ({reason}), and the disk is full: free space, and start again"
                ) from error
            raise StoreUnavailable(
                f"{self.path} cannot be opened as a history: {reason}. The file was not changed: fix the cause, "
                "restore it from a backup, or move it away and use `shellrunner serve --new-history` to start a new "
                "history"
            ) from error
        return db

    def open_reading(self, *, waits: bool = True) -> sqlite3.Connection:
        """Open a connection that cannot write; it must be closed before the writing one. See `db_thread`.

        Raises:
            StoreUnavailable: it cannot be opened.
        """
        try:
            return open_reading(self.path, waits=waits)
        except (sqlite3.Error, MemoryError) as error:
            raise StoreUnavailable(f"{self.path} cannot be read: {str(error) or 'out of memory'}") from error

    # Before SQLite opens it ------------------------------------------------------------------------------------

    def _create_directories(self) -> None:
        """Create what is missing, for this user alone."""
        for name in ("", "/slots", "/runs", f"/{key_files.DIRECTORY}"):
            os.makedirs(self._state_dir + name, mode=0o700, exist_ok=True)

    def _examine_files(self, found: Traces) -> bool:
        """Refuse a history other than that of the traces; return whether `history.db` was replaced by another file.

        Raises:
            HistoryRefused: it is missing, or another one.
        """
        mark, main = found.mark, main_file.read(self.path)
        if main_file.is_empty(self.path):
            self._refuse_new(found)
            if aside := main_file.set_wal_aside(self.path):
                _log.warning("the WAL of another history was set aside", extra={"path": aside})
            return False
        if not (mark and mark.history and main):
            return False
        if main.history != mark.history and not self._new_history:
            raise HistoryRefused(
                f"{self.path} is the history {main.history}, but the files beside it are of the history "
                f"{mark.history}: put the right history.db there, or use `shellrunner serve --new-history` to go on "
                "with this one"
            )
        moved = bool(mark.home) and mark.home == file_identity(f"{self._state_dir}/lock")
        other_file = moved and mark.database != file_identity(self.path)
        if not (main.history != mark.history or main.generation < mark.checkpointed or other_file):
            return False
        if main_file.has_foreign_wal(self.path, main, mark):
            aside = main_file.set_wal_aside(self.path)
            _log.warning("a WAL that is not of this history.db was set aside", extra={"path": aside})
        return True

    def _refuse_new(self, found: Traces) -> None:
        """Refuse a new history where another one has left something, unless that is wanted.

        Raises:
            HistoryRefused: `history.db` is missing.
        """
        if (found or not main_file.is_empty(f"{self.path}-wal")) and not self._new_history:
            histories = ", ".join(found.histories) or "an unknown history"
            raise HistoryRefused(
                f"{self.path} is missing or empty, but {self._state_dir} has files of another history ({histories}): "
                "restore history.db from a backup, or use `shellrunner serve --new-history` to set them aside and "
                "start a new history"
            )

    def _create_file(self) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        directory = os.open(self._state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _examine(self, db: sqlite3.Connection, found: Traces) -> None:
        if schema.examine(db) == 0:
            self._refuse_new(found)

    # Afterwards ------------------------------------------------------------------------------------------------

    def _load(self, db: sqlite3.Connection, found: Traces, *, replaced: bool) -> None:
        is_new = schema.examine(db) == 0
        schema.migrate(db)
        history, home = schema.history_id(db), self._home()
        if is_new:
            self._set_files_aside(found.files)
            self._set_keys_aside()
            secrets_upgrade.mark_clean(db)
            provenance.raise_ids(db, found.max_id())
            doubt = None
        else:
            doubt = provenance.examine(db, history, home, found, replaced=replaced)
            secrets_upgrade.upgrade(db, self.keys.files, self.keys.digests)
        self._settle(db, home, found, doubt)
        self.identity = HistoryIdentity(
            history, int(provenance.read_meta(db, "generation")), home.file if home else ""
        )
        self.pauses, self.queue_limits = queue_pauses.read(db), queue_limits.read(db)
        self.unknown_input_up_to = int(provenance.read_meta(db, "unknown_input_up_to") or 0)
        self._begin_high_water(db, is_other=bool(found.mark and found.mark.history != history))
        self._remove_orphans(db, [] if is_new else found.files)
        self.keys.take(db, held=bool(self.pauses.held))
        self.undone = [
            (Line(queue, submitter), State(state), number)
            for queue, submitter, state, number in db.execute(rows.UNDONE)
        ]
        self.seen_time = SeenTime(clock_marks.read(db), clock_marks.newest(db), boot_id(), now_ms(), boot_ms())
        for row in map(ClaimRow._make, db.execute(rows.RUNNING)):
            self.owners[row.id] = SlotOwner(row.keeper, row.token, row.attempt)
        if self.pauses.held:
            _log.warning(
                "nothing is started until an admin resumes all queues: %s",
                self.pauses.held.reason,
                extra={"state_dir": self._state_dir, "generation": self.identity.generation},
            )

    def _home(self) -> Home | None:
        try:
            return Home.from_lock(f"{self._state_dir}/lock")
        except FileNotFoundError:  # used without the service, which makes the lock file
            return None

    def _settle(
        self, db: sqlite3.Connection, home: Home | None, found: Traces, doubt: provenance.Doubt | None
    ) -> None:
        try:
            provenance.settle(db, home, found, doubt)
        except sqlite3.Error as error:
            if doubt or (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in _NO_SPACE:
                raise
            # On a full disk the service must start, so that something can be deleted.
            _log.warning("no new generation could be begun", extra={"reason": str(error)})

    def _begin_high_water(self, db: sqlite3.Connection, *, is_other: bool) -> None:
        generation = self.identity.generation
        (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        mark = HighWater(
            self.identity.history_id,
            generation,
            checkpointed=0 if busy else generation,
            ids=provenance.last_id(db),
            home=self.identity.home,
            database=file_identity(self.path),
            wal=file_identity(f"{self.path}-wal"),
        )
        self.high_water = HighWaterFile(self._state_dir, mark)
        try:
            if is_other:
                remove_high_water(self._state_dir)
            self.high_water.begin()
        except OSError as error:
            _log.warning("the high-water mark could not be written", extra={"reason": error.strerror})

    def _remove_orphans(self, db: sqlite3.Connection, files: list[SpillFile]) -> None:
        """Remove those files that are of jobs that were deleted, or whose result was, when a crash came between.

        A history that is held may not know of jobs that ran since: their output is set aside.
        """
        tokens = dict(db.execute(_HAVE_OUTPUT, (json.dumps([*{file.job for file in files}]),)).fetchall())
        orphans = [file for file in files if not _is_known(db, file, tokens)]
        if self.pauses.held:
            self._set_files_aside(orphans)
            return
        for file in orphans:
            if self._is_interrupted:
                raise StoreUnavailable("the opening was interrupted")
            os.unlink(f"{self._state_dir}/runs/{file.name}")
        if orphans:
            jobs = sorted({file.job for file in orphans})
            _log.info("removed output that belongs to no result", extra={"files": len(orphans), "jobs": jobs[:20]})

    def _set_files_aside(self, files: list[SpillFile]) -> None:
        """Move spill files of another history, or of jobs that this one does not know, away: they may be needed."""
        if not files:
            return
        aside = f"{self._state_dir}/runs.{time.time_ns()}"
        os.mkdir(aside, 0o700)
        for file in files:
            os.rename(f"{self._state_dir}/runs/{file.name}", f"{aside}/{file.name}")
        _log.warning("output of jobs that are not in this history was set aside in %s", aside)

    def _set_keys_aside(self) -> None:
        """Move the keys of another history away."""
        suffix = str(time.time_ns())
        if key_files.set_aside(self._state_dir, suffix):
            aside = f"{self._state_dir}/{key_files.DIRECTORY}.{suffix}"
            _log.warning("the keys of another history were set aside in %s", aside)


def _is_known(db: sqlite3.Connection, file: SpillFile, tokens: Mapping[int, str | None]) -> bool:
    """Return whether the file belongs to a job with output; `tokens` has those jobs, each with its last token."""
    if file.job not in tokens or file.token is None:
        return file.job in tokens
    return file.token == tokens[file.job] or (file.token,) in db.execute(_TOKENS, (file.job,)).fetchall()
