"""The queue in front of one connection: what arrives while it works becomes the next batch, one call to its thread.

Owned by the engine. Knows batches, and which outcome belongs to which caller; must not know jobs.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from shellrunner.errors import NoSpace, OutcomeUnknown, StoreUnavailable
from shellrunner.store.db import UnitOfWork
from shellrunner.store.sqlite.engine.db_thread import DbThread

T = TypeVar("T")

SQLITE_FAILURES: Final = (sqlite3.Error, MemoryError)  # the latter is SQLITE_NOMEM


class WorkItem:
    """A unit of work, and who wants its outcome.

    on_commit, on_failure: called with the outcome, in the turn of the loop in which it is known; must not raise.
    future: of the caller, if one waits. If it is cancelled, the unit runs all the same, and so does `on_commit`.
    frees_space: whether it frees space on a full disk, or records an end. needs_room: whether it must not be run on a
    disk that is nearly full.
    """

    __slots__ = ("error", "frees_space", "future", "needs_room", "on_commit", "on_failure", "unit", "value")

    def __init__(
        self,
        unit: UnitOfWork[Any],
        on_commit: Callable[[Any], None] | None = None,
        *,
        on_failure: Callable[[Exception], None] | None = None,
        frees_space: bool = False,
        needs_room: bool = False,
    ) -> None:
        self.unit = unit
        self.on_commit = on_commit
        self.on_failure = on_failure
        self.frees_space = frees_space
        self.needs_room = needs_room
        self.future: asyncio.Future[Any] | None = None
        self.value: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        """Apply the consequences and answer the caller, on the event loop's thread."""
        error, future = self.error, self.future
        if error is None:
            if self.on_commit is not None:
                self.on_commit(self.value)
            if future is not None and not future.done():
                future.set_result(self.value)
        else:
            if self.on_failure is not None:
                self.on_failure(error)
            if future is not None and not future.done():
                future.set_exception(error)


class BatchExecutor(Protocol):
    """Runs the units of a batch, on the connection's thread."""

    def execute(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> None:
        """Run every unit, and set the `value` or the `error` of each item."""


class BatchPlanner(Protocol):
    """Looks at each batch before it runs, on the event loop's thread."""

    def plan(self, batch: Sequence[WorkItem]) -> WorkItem | None:
        """Return the item with which the batch ends, if any. No other batch is under way."""


class BatchQueue:
    """Work for one connection, which is done batch after batch.

    By callbacks, because each task or future between a request and its commit is another turn of the loop:

        put ──> _schedule ──(next turn)──> _begin ──> the connection's thread ──> _executed ──> settle, item by item
                     ^                        ^                                        │
                     └──── if idle            └──────────── more has arrived ──────────┘
    """

    def __init__(self, connection: DbThread, executor: BatchExecutor) -> None:
        self._connection = connection
        self._executor = executor
        self._planner: BatchPlanner | None = None
        self._pending: list[WorkItem] = []
        self._batch: list[WorkItem] = []  # under way
        self._is_busy = True  # a batch is under way, or scheduled; until `run` is called, none begins
        self._is_due = False  # one is to follow it, even without items
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] = self._loop.create_future()

    @property
    def load(self) -> int:
        """How many units are pending or under way."""
        return len(self._batch) + len(self._pending)

    def put(self, item: WorkItem) -> None:
        """Put the item into the next batch.

        Raises:
            StoreUnavailable: the queue is closed.
        """
        if self._closed:
            raise StoreUnavailable("the history is closed")
        self._pending.append(item)
        self.wake()

    def submit(self, item: WorkItem) -> asyncio.Future[Any]:
        """Put the item into the next batch; return the future of its unit's value.

        Raises:
            StoreUnavailable: the queue is closed.
        """
        item.future = self._loop.create_future()
        self.put(item)
        return item.future

    async def run_unit(self, unit: UnitOfWork[T]) -> T:
        """Run the unit on the connection's thread and return its value.

        Raises:
            StoreUnavailable: SQLite failed, and nothing of the unit has happened.
        """
        value: T = await self.submit(WorkItem(unit))
        return value

    def wake(self) -> None:
        """Run a batch now, even if nothing is pending: the planner may have something."""
        self._is_due = True
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin)  # with all that arrives in this turn of the loop

    def close(self) -> None:
        """Accept no more items; `run` returns once all pending ones are done."""
        self._closed = True
        self.wake()

    async def run(self, planner: BatchPlanner | None = None) -> None:
        """Execute batch after batch until closed. What a callback, or the executor, raises is raised here."""
        self._planner = planner
        self._begin()
        try:
            await self._drained
        except BaseException:
            self._abandon()
            raise

    def _begin(self) -> None:
        self._is_due = False
        batch, self._pending = self._pending, []
        self._batch = batch
        try:
            if self._planner is not None and (last := self._planner.plan(batch)) is not None:
                batch.append(last)
            if batch:
                self._connection.call(lambda db: self._executor.execute(db, batch), self._executed)
            else:
                self._rest()
        except BaseException as bug:  # noqa: BLE001  `run` raises it
            self._crash(bug)

    def _executed(self, error: BaseException | None) -> None:
        if error is not None:
            self._crash(error)
            return
        try:
            for item in self._batch:
                item.settle()
        except BaseException as bug:  # noqa: BLE001  `run` raises it
            self._crash(bug)
            return
        self._batch = []
        if self._is_due:
            self._begin()
        else:
            self._rest()

    def _rest(self) -> None:
        if self._closed and not self._drained.done():
            self._drained.set_result(None)
        self._is_busy = self._closed

    def _crash(self, bug: BaseException) -> None:
        if not self._drained.done():
            self._drained.set_exception(bug)

    def _abandon(self) -> None:
        """Close after a crash, so that nobody waits for ever: the service ends, and may need the history for that."""
        self._closed = self._is_busy = True
        for item in self._batch:  # some of these may be settled
            if item.future is not None and not item.future.done():
                unknown = "the history has crashed; whether the request took effect is not known"
                item.future.set_exception(OutcomeUnknown(unknown))
        for item in self._pending:
            item.error = StoreUnavailable("the history has crashed")
            item.settle()
        self._batch, self._pending = [], []


class BatchReader:
    """Runs each batch of reads in one transaction, which sees one state of the history."""

    def execute(self, db: sqlite3.Connection, batch: Sequence[WorkItem]) -> None:
        """Run every unit; one that fails does not affect the others."""
        roll_back(db)  # a transaction that could not be ended sees an earlier state
        for item in batch:
            try:
                if not db.in_transaction:
                    db.execute("BEGIN")
                item.value = item.unit(db)
            except Exception as error:  # noqa: BLE001  # each caller gets its own, the queue goes on
                item.error = translate_error(error, "read")
        roll_back(db)


def roll_back(db: sqlite3.Connection) -> None:
    """End the transaction if one is open; if that fails, the next batch tries again before it begins its own."""
    with suppress(*SQLITE_FAILURES):
        if db.in_transaction:
            db.rollback()


def translate_error(error: Exception, action: str) -> Exception:
    """Return the error as callers may see it: SQLite's own never leave the store."""
    if not isinstance(error, SQLITE_FAILURES):
        return error
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
        return NoSpace()
    return StoreUnavailable(f"the history cannot be {action}: {str(error) or 'out of memory'}")
