"""Counting what a history held when it was opened: beside everything else, as it takes longer with every job.

The connection sees the state before anything was written (`db_thread.open_snapshot`). So the size is what this counts
plus what was committed since. Must not know limits.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.sqlite.engine.batch_reader import SQLITE_FAILURES
from shellrunner.store.units import trimming
from shellrunner.store.values import HistorySize

_log = logging.getLogger(__name__)

_CHECK_INTERVAL: Final = 10_000  # instructions of SQLite's virtual machine, under a millisecond


class SizeCount:
    """Counts once, on a connection that it closes then."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._is_ending = False
        db.set_progress_handler(lambda: self._is_ending, _CHECK_INTERVAL)

    async def run(self, counted: Callable[[HistorySize | StoreUnavailable], None]) -> None:
        """Count on a thread of its own and call `counted` with the size, or with the error; close the connection."""
        counting = asyncio.ensure_future(asyncio.to_thread(trimming.measure, self._db))
        try:
            counted(await asyncio.shield(counting))
        except SQLITE_FAILURES as error:
            reason = str(error) or "out of memory"
            counted(StoreUnavailable(f"the history cannot be counted: {reason}"))
            _log.error(
                "the jobs of the history could not be counted, so its limits of number and bytes are not applied",
                extra={"reason": reason},
            )
        finally:
            self._is_ending = True
            # However often this is cancelled: to close a connection that a thread uses would crash the process.
            while not counting.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([counting])
            self._db.close()
