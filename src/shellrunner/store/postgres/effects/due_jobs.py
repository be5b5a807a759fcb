"""Queueing jobs whose time has come, by the clock of the database: any node does it, each job once.

Owned by the store. Must not know when it is time.
"""

from dataclasses import dataclass
from typing import Final

from shellrunner.clock import Millis
from shellrunner.store.db import Db
from shellrunner.store.postgres.engine.group_commit import ChangeItem
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import admission

_MAX_DUE: Final = 500  # jobs that are queued in one commit


@dataclass(frozen=True, slots=True)
class DueJobs:
    """The unit of the due timer."""

    engine: PostgresEngine
    listener: CommitListener
    clock: DatabaseClock

    async def queue_due(self) -> Millis | None:
        """Queue jobs that are due; return when the next will be due."""
        next_due = await self.engine.read(admission.next_due)
        if next_due is None or next_due > self.clock.now():
            return next_due

        def queue(db: Db) -> tuple[tuple[Transitions, Millis | None], Transitions]:
            transitions = admission.queue_due(db, self.clock.now(), _MAX_DUE)
            return (transitions, admission.next_due(db)), transitions

        item = ChangeItem(queue, lambda outcome: self.listener.committed(outcome[0]))
        _, due = await self.engine.writes.submit(item)
        return None if due is None else int(due)
