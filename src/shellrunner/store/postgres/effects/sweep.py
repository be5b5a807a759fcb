"""The sweep: what a lost notification, or a lost delivery, would let wait for ever is looked at from time to time.

Owned by the store, which runs it as a task. A delivery is a hint and a notification may be lost, so this is what
makes sure that a queued job starts, that a request to cancel arrives, and that nobody waits for ever for an end.
"""

import asyncio
import itertools
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import uniform
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.store.components.due_timer import DueTimer
from shellrunner.store.db import Db
from shellrunner.store.notifications import Notifications, Topic
from shellrunner.store.postgres.delivery import DeliveryEngine
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.node.claim_queue import ClaimQueue
from shellrunner.store.postgres.node.database_clock import DatabaseClock

_INTERVAL: Final = 3.0  # seconds between two looks
_LOOKS_PER_ROUND: Final = 10  # after which everything is read again that somebody waits for
_MIN_AGE: Final = 3_000  # milliseconds for which a job is queued before it is delivered again
_MAX_LOAD: Final = 0.01  # of the time may be spent on looking for lost deliveries
_HAS_QUEUED: Final = "SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued')"


@dataclass(slots=True)
class Sweep:
    """Looks for queued jobs that nobody has noticed."""

    engine: PostgresEngine
    delivery: DeliveryEngine
    waiting: ClaimQueue
    clock: DatabaseClock
    due_timer: DueTimer
    notifications: Notifications
    _not_before: float = 0.0

    async def run(self) -> None:
        """Look from time to time, until it is cancelled."""
        for number in itertools.count(1):
            await asyncio.sleep(uniform(0.7, 1.3) * _INTERVAL)  # noqa: S311  so that the nodes take turns
            with suppress(StoreUnavailable):
                await self._look()
            self.notifications.notify(Topic.CANCEL_REQUESTS)
            if number % _LOOKS_PER_ROUND == 0:
                self.notifications.notify_all()

    async def _look(self) -> None:
        self.due_timer.check()  # a job that another node has accepted may be due
        if not await self.engine.read(_has_queued):
            return
        if time.monotonic() >= self._not_before:
            begun = time.monotonic()
            # Read apart: with many queued jobs that takes a second, for which no write should have to wait.
            lost = await self.engine.read(partial(self.delivery.find_lost, older_than=self.clock.now() - _MIN_AGE))
            await self.engine.write(partial(self.delivery.redeliver, lost=lost))
            self._not_before = time.monotonic() + (time.monotonic() - begun) / _MAX_LOAD
        self.waiting.look()


def _has_queued(db: Db) -> bool:
    ((found,),) = db.execute(_HAS_QUEUED).fetchall()
    return bool(found)
