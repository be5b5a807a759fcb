"""How many jobs of each queue are in which state, in memory: exact whenever no write is under way.

Owned by the store, on the event loop's thread. Must not know claims or SQL.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from shellrunner.errors import QueueFull
from shellrunner.model import State
from shellrunner.store import QueueLimit, QueueLimits
from shellrunner.store.queues import ALL_QUEUES
from shellrunner.store.transition import Transition

_UNLIMITED: Final = 1 << 30  # free places of a queue without a limit of its own


class QueueCounts:
    """Every queue that config names or that has jobs."""

    def __init__(
        self, limits: QueueLimits, counted: Iterable[tuple[str, State, int]] = (), paused: Iterable[str] = ()
    ) -> None:
        """`counted` are the jobs that are not done, by queue and state."""
        self._limits = limits
        self._counts: dict[str, Counter[State]] = {name: Counter() for name in limits.queues}
        for queue, state, number in counted:
            self._of(queue)[state] += number
        self.paused = frozenset(paused)

    def _of(self, queue: str) -> Counter[State]:
        return self._counts.setdefault(queue, Counter())

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(sorted(self._counts))

    def __contains__(self, queue: object) -> bool:
        return queue in self._counts

    def count(self, queue: str, state: State) -> int:
        """How many of its jobs are in this state (not: done)."""
        return self._counts[queue][state]

    def limit(self, queue: str) -> int | None:
        """How many may run."""
        return self._limits.queues.get(queue, QueueLimit()).max_running

    def is_paused(self, queue: str) -> bool:
        """Whether it starts nothing."""
        return queue in self.paused or ALL_QUEUES in self.paused

    def moved(self, move: Transition) -> None:
        """Follow a job."""
        counts = self._of(move.queue)
        if move.before is not None and move.before is not State.DONE:
            counts[move.before] -= 1
        if move.after is not None and move.after is not State.DONE:
            counts[move.after] += 1

    def room(self) -> dict[str, int]:
        """How many more jobs may run, of each queue that may start any now."""
        if ALL_QUEUES in self.paused:
            return {}
        return {name: room for name in self._counts if name not in self.paused and (room := self._room(name)) > 0}

    def _room(self, queue: str) -> int:
        limit = self.limit(queue)
        return _UNLIMITED if limit is None else limit - self._counts[queue][State.RUNNING]

    def waiting(self, queue: str | None = None) -> int:
        """How many jobs have not started: of a queue, or of all."""
        counts = self._counts.values() if queue is None else [self._of(queue)]
        return sum(count[State.QUEUED] + count[State.WAITING] for count in counts)

    def full(self, queue: str, *, more: int, more_of_it: int) -> QueueFull | None:
        """Why no further job may wait, when so many `more` (so many of them in this queue) are about to."""
        most, own = self._limits.max_queued, self._limits.queues.get(queue, QueueLimit()).max_queued
        if most is not None and self.waiting() + more >= most:
            return QueueFull("the service", most)
        if own is not None and self.waiting(queue) + more_of_it >= own:
            return QueueFull(f"queue {queue}", own)
        return None
