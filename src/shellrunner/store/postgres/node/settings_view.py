"""Counts, limits and pauses as this node last read them: for answers that may be a second old, never for decisions.

Owned by the store, on the event loop's thread. Read again after each notification about them, and with each lease.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.transaction import situation
from shellrunner.store.postgres.transaction.situation import Situation, TransactionState
from shellrunner.store.queues import Hold

_MAX_AGE: Final = 1.0  # seconds, while somebody asks
_MAX_IDLE_AGE: Final = 15.0  # seconds, while nobody does
_IN_USE: Final = 5.0  # seconds for which one that asks is expected to ask again


class SettingsView:
    """The situation, read when somebody asks for it, at most once a second."""

    def __init__(self, engine: PostgresEngine, state: TransactionState) -> None:
        self._engine, self._state = engine, state
        self.situation = Situation(QueueCounts(state.limits), {})
        self._stale = asyncio.Event()
        self._stale.set()
        self._asked_at = 0.0

    @property
    def counts(self) -> QueueCounts:
        """The counts, with limits and pauses."""
        if not self._is_in_use():
            self._stale.set()
        self._asked_at = time.monotonic()
        return self.situation.counts

    @property
    def held(self) -> Hold | None:
        """Why nothing is started, if the history is held."""
        return self.situation.pauses.held

    def _is_in_use(self) -> bool:
        return time.monotonic() - self._asked_at < _IN_USE

    def expire(self) -> None:
        """Read again: something has changed."""
        self._stale.set()

    async def read(self) -> Situation:
        """Read now.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        self._stale.clear()
        name, limits = self._state.node.name, self._state.limits
        self.situation = await self._engine.read(lambda db: situation.read(db, name, limits))
        return self.situation

    async def run(self) -> None:
        """Read whenever a setting has changed, and from time to time for the counts, until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_MAX_AGE if self._is_in_use() else _MAX_IDLE_AGE):
                    await self._stale.wait()
            with suppress(StoreUnavailable):
                await self.read()
            await asyncio.sleep(_MAX_AGE / 4)
