"""Counts, limits and pauses as this node last read them: for answers that may be a second old, never for decisions.

Owned by the store, on the event loop's thread. Read again after each notification about them, and with each lease.
"""

import asyncio
from contextlib import suppress
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.transaction import situation
from shellrunner.store.postgres.transaction.situation import Situation, TransactionState
from shellrunner.store.queues import Hold

_MAX_AGE: Final = 1.0  # seconds


class SettingsView:
    """The situation, read when somebody asks for it, at most once a second."""

    def __init__(self, engine: PostgresEngine, state: TransactionState) -> None:
        self._engine, self._state = engine, state
        self.situation = Situation(QueueCounts(state.limits), {}, 0, draining=False)
        self._stale = asyncio.Event()
        self._stale.set()

    @property
    def counts(self) -> QueueCounts:
        """The counts, with limits and pauses."""
        return self.situation.counts

    @property
    def held(self) -> Hold | None:
        """Why nothing is started, if the history is held."""
        return self.situation.pauses.held

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
        """Read whenever something has changed, and from time to time while jobs do, until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * _MAX_AGE):
                    await self._stale.wait()
            with suppress(StoreUnavailable):
                await self.read()
            await asyncio.sleep(_MAX_AGE / 4)
