"""Maintenance of the history: remove what retention does not keep, and queue jobs that are due.

Owned by the store, called by its tasks. Must not know when it is time.
"""

from dataclasses import dataclass
from typing import Final

from shellrunner.clock import Millis, now_ms
from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.db import Db
from shellrunner.store.sqlite.effects.clock_watch import ClockWatch
from shellrunner.store.sqlite.effects.trimmer import RetentionTrimmer, Trimmed
from shellrunner.store.sqlite.engine.engine import Engine
from shellrunner.store.sqlite.queueing_item import QueueingItem
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import admission, idempotency_keys

_MAX_DUE: Final = 500  # jobs that are queued in one commit


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The units of the background tasks."""

    engine: Engine
    listener: CommitListener
    trimmer: RetentionTrimmer
    clock: ClockWatch
    counts: QueueCounts

    async def remove_oldest(self, max_jobs: int) -> int:
        """Remove at most so many of the oldest jobs that exceed the limits; return how many.

        Nothing is removed from a history that is held: its ages and sizes are those of another time.
        """
        if self.counts.pauses.held:
            return 0

        def remove(db: Db) -> tuple[Trimmed, Millis]:
            shift = self.clock.settle(db)
            idempotency_keys.delete_expired(db, self.clock.now())
            return self.trimmer.trim(db, max_jobs, self.clock.now()), shift

        def removed(outcome: tuple[Trimmed, Millis]) -> None:
            trimmed, shift = outcome
            self.clock.settled(shift)
            self.listener.committed(trimmed.transitions)
            self.trimmer.trimmed(trimmed)

        trimmed, _ = await self.engine.write(remove, removed, frees_space=True)
        return len(trimmed.transitions)

    async def queue_due(self) -> Millis | None:
        """Queue jobs that are due; return when the next will be due."""

        def queue(db: Db) -> tuple[Transitions, Millis | None, Millis]:
            shift = self.clock.settle(db)  # first: a clock that was set forward makes no retry due
            return admission.queue_due(db, now_ms(), _MAX_DUE), admission.next_due(db), shift

        def queued(outcome: tuple[Transitions, Millis | None, Millis]) -> None:
            transitions, _, shift = outcome
            self.clock.settled(shift)
            self.listener.committed(transitions)

        item = QueueingItem(queue, queued, lambda outcome: outcome[0])
        _, next_due, _ = await self.engine.writes.submit(item)
        return None if next_due is None else int(next_due)
