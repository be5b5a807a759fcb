"""Group commit: all writes of this node that arrive during a commit are its next transaction.

Owned by the engine. Knows transactions, when one is to be run again, and what a failed one means; must not know jobs.
"""

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import psycopg
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.pq import TransactionStatus

from shellrunner.errors import OutcomeUnknown, ShellrunnerError, StoreUnavailable
from shellrunner.store.components.batch_queue import WorkItem
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine import failures
from shellrunner.store.postgres.engine.connection_thread import PostgresThread
from shellrunner.store.postgres.engine.postgres_db import Connection, PostgresDb
from shellrunner.store.transition import Transitions

_MAX_RUNS: Final = 10  # of one batch, while other transactions are in its way
_MAX_PAUSE: Final = 0.05  # seconds between two runs
BEGIN_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class ChangeItem(WorkItem):
    """A unit that returns its value and what it did to jobs.

    transitions: of its last run. follows_delivery: it needs what the units before it have queued. unique: of a row
    that another node may be adding at the same moment.
    """

    __slots__ = ("_change", "follows_delivery", "transitions", "unique")

    def __init__(
        self,
        unit: Callable[[Db], tuple[Any, Transitions]],
        on_commit: Callable[[Any], None] | None = None,
        *,
        on_failure: Callable[[Exception], None] | None = None,
        follows_delivery: bool = False,
        unique: tuple[str, ...] = (),
    ) -> None:
        super().__init__(self._run, on_commit, on_failure=on_failure)
        self.unique = unique
        self.transitions: Transitions = []
        self.follows_delivery = follows_delivery
        self._change = unit

    def _run(self, db: Db) -> Any:
        self.transitions = []
        value, self.transitions = self._change(db)
        return value


class CommitHooks(Protocol):
    """What belongs to a transaction because of what its units did to jobs."""

    def begin(self, transitions: Transitions, /) -> None:
        """Begin a run; to the list is added what its units do."""

    def unit_done(self, transitions: Transitions, /) -> None:
        """Follow what one of its units has done."""

    def deliver(self, db: Db, transitions: Transitions, /) -> None:
        """Hand jobs that were queued over to the delivery engine; before an item that `follows_delivery`."""

    def before_commit(self, db: Db, transitions: Transitions, /) -> None:
        """Write what is kept of all transitions: counts and sizes."""

    def committing(self, transitions: Transitions, /) -> Callable[[], object] | None:
        """Return what is to be done while the server commits, if anything."""

    def notification(self, transitions: Transitions, /) -> tuple[str, Sequence[Any]] | None:
        """Return the statement by which others learn of it, if they have to at once; it is sent behind COMMIT."""

    def committed(self, transitions: Transitions, /) -> None:
        """Note what was committed, before anybody learns of it."""

    def refused(self, transitions: Transitions, /) -> None:
        """Note that it was not committed."""

    def unanswered(self, transitions: Transitions, /) -> None:
        """Note what was committed, or not: the connection was lost before that was answered."""


class GroupCommit:
    """Runs each batch of writes in one transaction.

    Units must be re-runnable, and must refuse (raise a ShellrunnerError) before they write: else the batch is rolled
    back, and each of its units is committed alone.
    """

    def __init__(self, hooks: CommitHooks) -> None:
        self._hooks = hooks
        self.commits = 0
        self.runs_again = 0
        self.failure: StoreUnavailable | None = None  # of the last transaction

    def execute(self, thread: PostgresThread, batch: Sequence[WorkItem]) -> None:
        """Commit the batch; if one unit fails, commit each unit alone."""
        for number in range(_MAX_RUNS):
            try:
                self._commit(thread, batch)
            except failures.RETRIED as error:
                self.runs_again += 1
                if number == _MAX_RUNS - 1:
                    self._fail(batch, StoreUnavailable(f"the history cannot be written: {failures.describe(error)}"))
                    return
                time.sleep(random.uniform(0, _MAX_PAUSE) * number / _MAX_RUNS)  # noqa: S311  not a secret
            except _CommitNotAnswered as error:
                thread.drop()
                self._hooks.unanswered(error.transitions)
                self._fail(batch, failures.outcome_unknown(error.cause), keep_refusals=True)
                return
            except psycopg.Error as error:
                self._failed(thread, batch, error)
                return
            except Exception as bug:  # noqa: BLE001  # whatever it is, its caller gets it
                self._each_alone(thread, batch, bug)
                return
            else:
                self.failure = None
                return

    def _commit(self, thread: PostgresThread, batch: Sequence[WorkItem]) -> None:
        connection, db = thread.connection, thread.db
        try:
            roll_back(connection)  # one that could not be ended before
            db.begin()
            transitions = self._run_units(db, batch)
            self._end(connection, db, transitions)
            self.commits += 1
            if transitions:
                self._hooks.committed(transitions)
        finally:
            roll_back(connection)

    def _end(self, connection: Connection, db: PostgresDb, transitions: Transitions) -> None:
        try:
            if transitions:
                answer = db.commit(self._hooks.committing(transitions), self._hooks.notification(transitions))
            else:
                answer = db.commit()
            if answer != "COMMIT":  # a unit has passed over the error of a statement
                raise psycopg.errors.InFailedSqlTransaction("the transaction was rolled back")
        except psycopg.Error as error:
            # Where a statement before COMMIT has failed, and the server has answered, it has not reached COMMIT.
            is_refused = connection.pgconn.transaction_status == TransactionStatus.INERROR
            if failures.is_lost(error) and not is_refused and not isinstance(error, ReadOnlySqlTransaction):
                raise _CommitNotAnswered(error, transitions) from None
            if transitions:
                self._hooks.refused(transitions)
            raise

    def _run_units(self, db: PostgresDb, batch: Sequence[WorkItem]) -> Transitions:
        transitions: Transitions = []
        delivered = 0
        self._hooks.begin(transitions)
        for item in _ordered(batch):
            item.error = None
            if isinstance(item, ChangeItem) and item.follows_delivery:
                self._hooks.deliver(db, transitions[delivered:])
                delivered = len(transitions)
            db.has_written = False
            try:
                item.value = item.unit(db)
            except ShellrunnerError as refusal:
                if db.has_written:
                    raise
                item.error = refusal
            else:
                if isinstance(item, ChangeItem) and item.transitions:
                    transitions += item.transitions
                    self._hooks.unit_done(item.transitions)
        if delivered < len(transitions):
            self._hooks.deliver(db, transitions[delivered:])
        if transitions:
            self._hooks.before_commit(db, transitions)
        return transitions

    def _failed(self, thread: PostgresThread, batch: Sequence[WorkItem], error: psycopg.Error) -> None:
        if failures.is_lost(error) or thread.is_lost():
            thread.drop()
        elif len(batch) > 1:
            self._each_alone(thread, batch, error)
            return
        failure = failures.translate_failure(error, "written")
        assert isinstance(failure, StoreUnavailable)  # noqa: S101  as each of psycopg's errors becomes one
        self._fail(batch, failure)

    def _each_alone(self, thread: PostgresThread, batch: Sequence[WorkItem], culprit: Exception) -> None:
        if len(batch) == 1:
            batch[0].error = culprit
            return
        for item in batch:
            self.execute(thread, [item])

    def _fail(self, batch: Sequence[WorkItem], error: StoreUnavailable, *, keep_refusals: bool = False) -> None:
        self.failure = StoreUnavailable(error.detail) if isinstance(error, OutcomeUnknown) else error
        for item in batch:
            if not keep_refusals or item.error is None:
                item.error = error


def _ordered(batch: Sequence[WorkItem]) -> Sequence[WorkItem]:
    """Return the batch with those that add unique rows in one order among themselves, the same at each node.

    In another order each of two nodes waits for the other, and the server ends one of them after a second only.
    """
    places = [place for place, item in enumerate(batch) if isinstance(item, ChangeItem) and item.unique]
    ordered = list(batch)
    for place, item in zip(places, sorted((batch[each] for each in places), key=_unique), strict=True):
        ordered[place] = item
    return ordered


def _unique(item: WorkItem) -> tuple[str, ...]:
    return item.unique if isinstance(item, ChangeItem) else ()


class GroupRead:
    """Runs each batch of reads in one transaction, which sees one state of the history."""

    def __init__(self) -> None:
        self.begun = 0

    def execute(self, thread: PostgresThread, batch: Sequence[WorkItem]) -> None:
        """Run every unit; one that fails does not affect the others."""
        left = self._execute(thread, batch)
        if left:  # the connection was lost: reads can be repeated
            self._execute(thread, left, is_last=True)

    def _execute(
        self, thread: PostgresThread, batch: Sequence[WorkItem], *, is_last: bool = False
    ) -> Sequence[WorkItem]:
        """Return those that are to be run again on another connection."""
        for number, item in enumerate(batch):
            try:
                connection, db = thread.connection, thread.db
                if connection.pgconn.transaction_status != TransactionStatus.INTRANS:
                    roll_back(connection)
                    connection.execute(BEGIN_READ)
                    self.begun += 1
                item.value, item.error = item.unit(db), None
            except Exception as error:  # noqa: BLE001  # each caller gets its own, the queue goes on
                item.error = failures.translate_failure(error, "read")
                if isinstance(error, psycopg.Error) and (failures.is_lost(error) or thread.is_lost()):
                    thread.drop()
                    if not is_last:
                        return batch[number:]
        if not thread.is_lost():
            roll_back(thread.connection)
        return []


class _CommitNotAnswered(Exception):
    """COMMIT was sent, and the connection was lost before its answer."""

    def __init__(self, cause: psycopg.Error, transitions: Transitions) -> None:
        super().__init__()
        self.cause, self.transitions = cause, transitions


def roll_back(connection: Connection) -> None:
    """End the transaction if one is open; a lost connection has none any more."""
    if not connection.closed and connection.pgconn.transaction_status != TransactionStatus.IDLE:
        with contextlib.suppress(psycopg.Error):
            connection.execute("ROLLBACK")
