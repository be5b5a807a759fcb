"""The one writing connection, with group commit: everything asked for during a commit is the next commit.

Owned by the store. Knows transactions and what a failed one means; must not know jobs.
"""

import sqlite3
from collections.abc import Callable, Sequence

from shellrunner.store.sqlite.batch_queue import BatchQueue, WorkItem, run_unit, translate_error
from shellrunner.store.sqlite.db_thread import DbThread

_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class BatchWriter(BatchQueue):
    """Writes. Units must be re-runnable, and must refuse (raise a ShellrunnerError) before they write."""

    doing = "written"

    def __init__(
        self,
        connection: DbThread,
        standing: Callable[[Sequence[WorkItem]], WorkItem | None],
        make_room: Callable[[], bool],
    ) -> None:
        """`standing` names what ends each batch; `make_room` gives up ballast on a full disk, once."""
        super().__init__(connection)
        self._standing = standing
        self._make_room = make_room
        self.commits = 0

    def _take(self) -> list[WorkItem]:
        batch = super()._take()
        standing = self._standing(batch)
        if standing is not None:
            batch.append(standing)
        return batch

    def _do(self, db: sqlite3.Connection, batch: list[WorkItem]) -> None:
        try:
            culprit = self._transact(db, batch)
        except sqlite3.Error as error:
            self._all_failed(db, batch, error)
        else:
            if culprit is not None:
                self._each_alone(db, batch, culprit)

    def _transact(self, db: sqlite3.Connection, batch: list[WorkItem]) -> Exception | None:
        """Commit the batch; or return what a unit raised, with everything rolled back."""
        try:
            db.execute("BEGIN IMMEDIATE")
            before = db.total_changes
            for asked in batch:
                try:
                    run_unit(asked, db)
                except Exception as culprit:  # noqa: BLE001  # whatever it is, it is told to its asker
                    return culprit
            db.execute("COMMIT")
            self.commits += db.total_changes != before
        finally:
            # Also after a failed COMMIT, which leaves the transaction open: the next batch must find none.
            if db.in_transaction:
                db.rollback()
        return None

    def _each_alone(self, db: sqlite3.Connection, batch: list[WorkItem], culprit: Exception) -> None:
        if len(batch) > 1:
            for asked in batch:
                self._do(db, [asked])
        elif isinstance(culprit, sqlite3.Error):
            self._all_failed(db, batch, culprit)
        else:
            batch[0].error = culprit

    def _all_failed(self, db: sqlite3.Connection, batch: list[WorkItem], error: sqlite3.Error) -> None:
        for asked in batch:
            asked.error = translate_error(error, self.doing)
        # On a full disk even DELETE fails. What frees room, or records an end, may use the room kept for it.
        freeing = [asked for asked in batch if asked.frees]
        if freeing and _no_room(error) and self._make_room():
            self._do(db, freeing)


def _no_room(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _NO_ROOM
