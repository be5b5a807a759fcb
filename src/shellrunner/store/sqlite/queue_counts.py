"""How many jobs of each queue are in which state, in memory: exact whenever no write batch is under way.

Owned by the store, on the event loop's thread. Must not know claims or SQL.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from shellrunner.errors import QueueFull
from shellrunner.model import State
from shellrunner.store.queues import ALL_QUEUES, Pauses, QueueLimit, QueueLimits
from shellrunner.store.transition import Transition

_UNDONE: Final = (State.WAITING, State.QUEUED, State.RUNNING)
_UNLIMITED: Final = 1 << 30  # capacity of a queue without a limit of its own
_NONE_PAUSED: Final = Pauses()


class QueueCounts:
    """Every queue that config names or that has jobs which are not done; `pauses` has those that start none."""

    def __init__(
        self, limits: QueueLimits, undone: Iterable[tuple[str, State, int]] = (), pauses: Pauses = _NONE_PAUSED
    ) -> None:
        """`undone`: how many jobs are not done, by queue and state."""
        self._limits = limits
        self._counts: dict[str, dict[State, int]] = {name: dict.fromkeys(_UNDONE, 0) for name in limits.queues}
        for queue, state, number in undone:
            self._of_queue(queue)[state] += number
        self.pauses = pauses

    def _of_queue(self, queue: str) -> dict[State, int]:
        counts = self._counts.get(queue)
        if counts is None:
            counts = self._counts[queue] = dict.fromkeys(_UNDONE, 0)
        return counts

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the queues, in order."""
        return iter(sorted(self._counts))

    def __contains__(self, queue: object) -> bool:
        return queue in self._counts

    def count(self, queue: str, state: State) -> int:
        """Return how many jobs of the queue are in this state, which is not `done`."""
        return self._counts[queue][state]

    def limit(self, queue: str) -> int | None:
        """Return how many jobs of the queue may run at once; None: no limit of its own."""
        own = self._limits.queues.get(queue)
        return None if own is None else own.max_running

    def is_paused(self, queue: str) -> bool:
        """Return whether the queue starts no jobs, by its own pause or the whole service's."""
        return queue in self.pauses.queues or ALL_QUEUES in self.pauses.queues

    def apply(self, transition: Transition) -> None:
        """Follow a job from one state to another."""
        counts, before, after = self._of_queue(transition.queue), transition.before, transition.after
        if before is not None and before is not State.DONE:
            counts[before] -= 1
        if after is not None and after is not State.DONE:
            counts[after] += 1

    def capacity(self) -> dict[str, int]:
        """Return how many more jobs may run, for each queue that may start any now."""
        if ALL_QUEUES in self.pauses.queues:
            return {}
        return {
            name: capacity
            for name in self._counts
            if name not in self.pauses.queues and (capacity := self._capacity(name)) > 0
        }

    def _capacity(self, queue: str) -> int:
        limit = self.limit(queue)
        return _UNLIMITED if limit is None else limit - self._counts[queue][State.RUNNING]

    def has_startable(self) -> bool:
        """Return whether a job is queued that may start now."""
        if ALL_QUEUES in self.pauses.queues:
            return False
        return any(
            counts[State.QUEUED] and name not in self.pauses.queues and self._capacity(name) > 0
            for name, counts in self._counts.items()
        )

    def unstarted(self, queue: str | None = None) -> int:
        """Return how many jobs have not started, of one queue or of all."""
        counts = self._counts.values() if queue is None else [self._of_queue(queue)]
        return sum(count[State.QUEUED] + count[State.WAITING] for count in counts)

    def refusal(self, queue: str, *, reserved: int, reserved_in_queue: int) -> QueueFull | None:
        """Return why no further job may wait in the queue, beside those for which places are reserved; or None."""
        total, own = self._limits.max_queued, self._limits.queues.get(queue, QueueLimit()).max_queued
        if total is not None and self.unstarted() + reserved >= total:
            return QueueFull("the service", total)
        if own is not None and self.unstarted(queue) + reserved_in_queue >= own:
            return QueueFull(f"queue {queue}", own)
        return None
