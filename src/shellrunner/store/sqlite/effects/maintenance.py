"""Maintenance of the history: remove what retention does not keep, and queue jobs that are due.

Owned by the store, called by its tasks. Must not know when it is time.
"""

from dataclasses import dataclass
from typing import Final

from shellrunner.clock import Millis, now_ms
from shellrunner.store.db import Db
from shellrunner.store.sqlite.effects.trimmer import RetentionTrimmer
from shellrunner.store.sqlite.engine.batch_queue import WorkItem
from shellrunner.store.sqlite.engine.engine import Engine
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import admission, idempotency_keys

_MAX_DUE: Final = 500  # jobs that are queued in one commit


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The units of the background tasks."""

    engine: Engine
    listener: CommitListener
    trimmer: RetentionTrimmer

    async def remove_oldest(self, max_jobs: int) -> int:
        """Remove at most so many of the oldest jobs that exceed the limits; return how many."""

        def remove(db: Db) -> Transitions:
            idempotency_keys.delete_expired(db, now_ms())
            return self.trimmer.trim(db, max_jobs)

        removed = await self.engine.write(remove, self.listener.committed, frees_space=True)
        return len(removed)

    async def queue_due(self) -> Millis | None:
        """Queue jobs that are due; return when the next will be due."""

        def queue(db: Db) -> tuple[Transitions, Millis | None]:
            return admission.queue_due(db, now_ms(), _MAX_DUE), admission.next_due(db)

        item = WorkItem(queue, lambda outcome: self.listener.committed(outcome[0]), may_queue=True)
        _, next_due = await self.engine.writes.submit(item)
        return None if next_due is None else int(next_due)
