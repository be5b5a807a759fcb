"""The queues: how many jobs of each stand where, how many may, and which are paused.

Owned by the store, on the loop's thread; exact whenever no write is under way. Must not know claims or SQL.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shellrunner.errors import QueueFull
from shellrunner.model import State
from shellrunner.store.transition import Transition

ALL: Final = "*"  # in the place of a name (which it cannot be): the whole service is paused
_ANY: Final = 1 << 30  # places of a queue without a limit of its own


class QueueLimit(NamedTuple):
    """How many jobs of a queue run at once, and how many wait. None: no limit of its own."""

    max_running: int | None = None
    max_queued: int | None = None


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What config says of queues; `max_queued` counts the jobs that wait in all of them."""

    max_queued: int | None = None
    queues: Mapping[str, QueueLimit] = field(default_factory=lambda: {"default": QueueLimit()})


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
        return queue in self.paused or ALL in self.paused

    def moved(self, move: Transition) -> None:
        """Follow a job."""
        counts = self._of(move.queue)
        if move.before is not None and move.before is not State.DONE:
            counts[move.before] -= 1
        if move.after is not None and move.after is not State.DONE:
            counts[move.after] += 1

    def room(self) -> dict[str, int]:
        """How many more jobs may run, of each queue that may start any now."""
        if ALL in self.paused:
            return {}
        return {name: room for name in self._counts if name not in self.paused and (room := self._room(name)) > 0}

    def _room(self, queue: str) -> int:
        limit = self.limit(queue)
        return _ANY if limit is None else limit - self._counts[queue][State.RUNNING]

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
