"""Group commit: all writes that arrive during a commit are the next commit.

Owned by the engine. Knows transactions and what a failed one means; must not know jobs.
"""

import sqlite3
from collections.abc import Sequence

from shellrunner.errors import NoSpace, OutcomeUnknown, ShellrunnerError, StoreUnavailable
from shellrunner.store.components.batch_queue import WorkItem
from shellrunner.store.sqlite.engine.batch_reader import SQLITE_FAILURES, roll_back, translate_error
from shellrunner.store.sqlite.engine.disk_reserve import DiskReserve
from shellrunner.store.sqlite.engine.history_files import HistoryFiles

Failure = sqlite3.Error | MemoryError | StoreUnavailable

_NO_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class _CommitError(Exception):
    """COMMIT itself failed: the transaction may be in the log all the same."""

    def __init__(self, error: sqlite3.Error | MemoryError) -> None:
        super().__init__(str(error))
        self.error = error


class BatchWriter:
    """Runs each batch of writes in one transaction.

    Units must be re-runnable, and must refuse (raise a ShellrunnerError) before they write: else the batch is rolled
    back, and each of its units is committed alone.
    """

    def __init__(self, reserve: DiskReserve, files: HistoryFiles) -> None:
        """On a full disk, use the reserve for those units that free space; commit only while the files are there."""
        self._reserve = reserve
        self._files = files
        self.commits = 0
        self._failure: StoreUnavailable | None = None  # of the last transaction

    def refusal(self) -> StoreUnavailable | None:
        """Return the error with which a new job would be refused now; called on any thread."""
        if self._failure is not None:
            return self._failure
        return NoSpace() if self._reserve.is_low() or not self._reserve.is_whole else None

    def claim_refusal(self) -> StoreUnavailable | None:
        """Return the error with which a unit that frees no space would fail now; called on any thread."""
        if self._failure is not None:
            return self._failure
        return None if self._reserve.is_whole else NoSpace()

    def execute(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> None:
        """Commit the batch; if one unit fails, commit each unit alone."""
        if not self._reserve.is_whole and not self._reserve.restore():
            batch = self._only_freeing(batch)
        if batch:
            self._execute(db, batch)

    def _execute(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> None:
        try:
            culprit = self._commit(db, batch)
        except (*SQLITE_FAILURES, StoreUnavailable) as error:
            self._fail_all(db, batch, error)
        except _CommitError as failed:
            # With SQLITE_FULL the transaction could not be written as a whole, and a part of one is never replayed.
            is_undone = _undo_commit(db) or _code(failed.error) == sqlite3.SQLITE_FULL
            self._fail_all(db, batch, failed.error if is_undone else _unknown(failed.error))
        else:
            if culprit is not None:
                self._commit_each(db, batch, culprit)
            else:
                self._failure = None

    def _commit(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> Exception | None:
        """Commit the batch; or return what a unit raised, with everything rolled back."""
        roll_back(db)  # one that could not be ended before
        try:
            db.execute("BEGIN IMMEDIATE")
            before = db.total_changes
            for item in batch:
                changes = db.total_changes
                try:
                    self._run_unit(item, db)
                except Exception as culprit:  # noqa: BLE001  # whatever it is, its caller gets it
                    return culprit
                if item.error is not None and db.total_changes != changes:
                    return item.error
            # As late as possible: what is committed to a file that was removed is gone with it.
            if fault := self._files.fault():
                raise _missing(fault)
            try:
                db.execute("COMMIT")
            except SQLITE_FAILURES as error:
                raise _CommitError(error) from None
            self.commits += db.total_changes != before
        finally:
            # Also after a failed COMMIT, which leaves the transaction open: the next batch must not find one.
            roll_back(db)
        return None

    def _run_unit(self, item: WorkItem, db: sqlite3.Connection) -> None:
        """Run the unit inside the batch's transaction; if one that refuses has written nothing, the others stand."""
        item.error = None
        try:
            if item.needs_room and self._reserve.is_low():
                raise NoSpace
            item.value = item.unit(db)
        except ShellrunnerError as refusal:
            item.error = refusal

    def _commit_each(self, db: sqlite3.Connection, batch: Sequence[WorkItem], culprit: Exception) -> None:
        if len(batch) > 1:
            for item in batch:
                self.execute(db, [item])
        elif isinstance(culprit, SQLITE_FAILURES):
            self._fail_all(db, batch, culprit)
        else:
            batch[0].error = culprit

    def _fail_all(self, db: sqlite3.Connection, batch: Sequence[WorkItem], error: Failure) -> None:
        if isinstance(error, SQLITE_FAILURES) and (fault := self._files.fault()):
            error = _missing(fault)  # which explains what SQLite says
        self._failure = _translated(error)
        for item in batch:
            item.error = _translated(error)
        # On a full disk even DELETE fails. Units that free space or record an end may use the reserved space.
        freeing = [item for item in batch if item.frees_space]
        if freeing and self._is_no_space(error) and self._reserve.release():
            self._execute(db, freeing)

    def _is_no_space(self, error: Failure) -> bool:
        """Return whether it failed for want of space: a quota gives other errors than a full disk."""
        code = _code(error)
        if code == sqlite3.SQLITE_IOERR_FSYNC:
            return self._reserve.is_disk_full()
        return code & 0xFF in _NO_SPACE

    def _only_freeing(self, batch: Sequence[WorkItem]) -> list[WorkItem]:
        """Refuse all units that free no space, while the reserve is in use; return the others."""
        refused = [item for item in batch if not item.frees_space]
        for item in refused:
            item.error = self._failure = NoSpace()
        return [item for item in batch if item.frees_space]


def _undo_commit(db: sqlite3.Connection) -> bool:
    """Make sure that a transaction whose COMMIT failed is not found by a later recovery; return whether it is.

    SQLite writes a transaction to the log and then syncs it. If the sync fails it rolls back, but only in memory: the
    transaction lies complete in the log, and a recovery after a crash would replay it. The next one is written over
    it, so one that changes nothing is committed now.
    """
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"PRAGMA user_version={version:d}")
        db.execute("COMMIT")
    except SQLITE_FAILURES:
        return False
    finally:
        roll_back(db)
    return True


def _missing(fault: str) -> StoreUnavailable:
    hint = "put it back, or restart the service"
    return StoreUnavailable(f"the history cannot be written: {fault} while the service runs: {hint}")


def _unknown(error: sqlite3.Error | MemoryError) -> OutcomeUnknown:
    reason = str(error) or "out of memory"
    return OutcomeUnknown(f"the history could not be written: {reason}; whether the request took effect is not known")


def _translated(error: Failure) -> StoreUnavailable:
    translated = translate_error(error, "written")
    assert isinstance(translated, StoreUnavailable)  # noqa: S101  as both kinds of failure are
    return translated


def _code(error: Exception) -> int:
    """Return SQLite's extended result code; 0 if there is none."""
    return getattr(error, "sqlite_errorcode", 0)
