"""The queue before one connection: what is asked for while it works is done together, in one hop.

Owned by the store, which runs `work` as a task. Knows batches and whose answer is whose; must not know jobs.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from shellrunner.errors import ShellrunnerError, StoreUnavailable
from shellrunner.store.sqlite.db_thread import DbThread

T = TypeVar("T")
UnitOfWork = Callable[[sqlite3.Connection], T]


class WorkItem:
    """A unit and who waits for it. A waiter that was cancelled changes nothing: the unit runs, `after` is called.

    `frees`: it frees room on a full disk. `queues`: it may put something back into the queue.
    """

    __slots__ = ("after", "error", "frees", "future", "queues", "unit", "value")

    def __init__(
        self,
        unit: UnitOfWork[Any],
        after: Callable[[Any], None] | None = None,
        *,
        frees: bool = False,
        queues: bool = False,
    ) -> None:
        self.unit = unit
        self.after = after
        self.frees = frees
        self.queues = queues
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.value: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        """Tell what came of it, on the loop's thread."""
        if self.error is None and self.after is not None:
            self.after(self.value)
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.value)
        else:
            self.future.set_exception(self.error)


def translate_error(error: Exception, doing: str) -> Exception:
    """The error as callers may see it: SQLite's own never leave the store."""
    if not isinstance(error, sqlite3.Error):
        return error
    return StoreUnavailable(f"the history cannot be {doing}: {error}")


class BatchQueue:
    """Reads: each batch is one transaction that sees one state of the history."""

    doing = "read"

    def __init__(self, connection: DbThread) -> None:
        self._connection = connection
        self._asked: list[WorkItem] = []
        self._working = 0
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def load(self) -> int:
        """How many units are waiting or under way."""
        return self._working + len(self._asked)

    async def run(self, unit: UnitOfWork[T]) -> T:
        """Run the unit on the connection's thread and return what it returned.

        Raises:
            StoreUnavailable: SQLite failed, and nothing of the unit has happened.
        """
        value: T = await self.ask(WorkItem(unit))
        return value

    def ask(self, asked: WorkItem) -> asyncio.Future[Any]:
        """Put it into the next batch."""
        if self._closed:
            raise StoreUnavailable("the history is closed")
        self._asked.append(asked)
        self._wake.set()
        return asked.future

    def wake(self) -> None:
        """Have a batch now, also if nothing was asked."""
        self._wake.set()

    def close(self) -> None:
        """Take no more; `work` returns once everything asked before is done."""
        self._closed = True
        self._wake.set()

    async def work(self) -> None:
        """Do batch after batch until closed."""
        while not (self._closed and not self._asked):
            await self._wake.wait()
            self._wake.clear()
            batch = self._take()
            if batch:
                self._working = len(batch)
                await self._connection.hop(lambda db, batch=batch: self._do(db, batch))  # type: ignore[misc]
                self._working = 0
                for asked in batch:
                    asked.settle()

    def _take(self) -> list[WorkItem]:
        batch, self._asked = self._asked, []
        return batch

    def _do(self, db: sqlite3.Connection, batch: list[WorkItem]) -> None:
        for asked in batch:
            try:
                if not db.in_transaction:
                    db.execute("BEGIN")
                asked.value = asked.unit(db)
            except Exception as error:  # noqa: BLE001  # each asker gets its own, the lane goes on
                asked.error = translate_error(error, self.doing)
        if db.in_transaction:
            db.rollback()


def run_unit(asked: WorkItem, db: sqlite3.Connection) -> None:
    """Run the unit inside the batch's transaction. One that refuses has written nothing, so the others stand."""
    asked.error = None
    try:
        asked.value = asked.unit(db)
    except ShellrunnerError as refusal:
        asked.error = refusal
