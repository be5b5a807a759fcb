"""Group commit: all writes that arrive during a commit are the next commit.

Owned by the engine. Knows transactions and what a failed one means; must not know jobs.
"""

import sqlite3
from collections.abc import Sequence

from shellrunner.errors import ShellrunnerError
from shellrunner.store.sqlite.engine.batch_queue import WorkItem, translate_error
from shellrunner.store.sqlite.engine.disk_reserve import Ballast

_NO_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class BatchWriter:
    """Runs each batch of writes in one transaction.

    Units must be re-runnable, and must refuse (raise a ShellrunnerError) before they write.
    """

    def __init__(self, ballast: Ballast) -> None:
        """On a full disk, release the ballast once for those units that free space."""
        self._ballast = ballast
        self.commits = 0

    def execute(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> None:
        """Commit the batch; if one unit fails, commit each unit alone."""
        try:
            culprit = self._commit(db, batch)
        except sqlite3.Error as error:
            self._fail_all(db, batch, error)
        else:
            if culprit is not None:
                self._commit_each(db, batch, culprit)

    def _commit(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> Exception | None:
        """Commit the batch; or return what a unit raised, with everything rolled back."""
        try:
            db.execute("BEGIN IMMEDIATE")
            before = db.total_changes
            for item in batch:
                try:
                    _run_unit(item, db)
                except Exception as culprit:  # noqa: BLE001  # whatever it is, its caller gets it
                    return culprit
            db.execute("COMMIT")
            self.commits += db.total_changes != before
        finally:
            # Also after a failed COMMIT, which leaves the transaction open: the next batch must not find one.
            if db.in_transaction:
                db.rollback()
        return None

    def _commit_each(self, db: sqlite3.Connection, batch: Sequence[WorkItem], culprit: Exception) -> None:
        if len(batch) > 1:
            for item in batch:
                self.execute(db, [item])
        elif isinstance(culprit, sqlite3.Error):
            self._fail_all(db, batch, culprit)
        else:
            batch[0].error = culprit

    def _fail_all(self, db: sqlite3.Connection, batch: Sequence[WorkItem], error: sqlite3.Error) -> None:
        for item in batch:
            item.error = translate_error(error, "written")
        # On a full disk even DELETE fails. Units that free space or record an end may use the reserved space.
        freeing = [item for item in batch if item.frees_space]
        if freeing and _is_no_space(error) and self._ballast.release():
            self.execute(db, freeing)


def _run_unit(item: WorkItem, db: sqlite3.Connection) -> None:
    """Run the unit inside the batch's transaction. One that refuses has written nothing, so the others stand."""
    item.error = None
    try:
        item.value = item.unit(db)
    except ShellrunnerError as refusal:
        item.error = refusal


def _is_no_space(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _NO_SPACE
