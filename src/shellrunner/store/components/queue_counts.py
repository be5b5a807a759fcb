"""How many jobs of each queue and submitter are in which state, and how many may be, in memory.

Exact whenever no write batch is under way. Owned by the store, on the event loop's thread. What is asked for each job
takes no longer with many queues, of which there may be a thousand. Must not know claims or SQL.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from shellrunner.errors import QueueFull, StoreUnavailable, TooManyQueuedJobs
from shellrunner.model import Pending, PendingReason, Queued, State
from shellrunner.store.components.submitter_counts import SubmitterCounts
from shellrunner.store.queues import ALL_QUEUES, Capacity, Line, Pauses, QueueLimit, QueueLimits, SubmitterLimit
from shellrunner.store.transition import Transition

_UNDONE: Final = (State.WAITING, State.QUEUED, State.RUNNING)
_UNLIMITED: Final = 1 << 30  # capacity of a queue without a limit of its own
_NONE_PAUSED: Final = Pauses()
_NO_LIMIT: Final = QueueLimit()


class QueueCounts:
    """Every queue that has a limit or jobs which are not done.

    pauses: the queues that start no jobs. limits: those of every queue to which jobs may be submitted, because config
    names it or it was made at run time.
    """

    def __init__(
        self,
        limits: QueueLimits,
        undone: Iterable[tuple[Line, State, int]] = (),
        pauses: Pauses = _NONE_PAUSED,
        stored: Mapping[str, QueueLimit] = MappingProxyType({}),
    ) -> None:
        """`undone`: how many jobs are not done, by queue, submitter and state. `stored`: see `limit_queues`."""
        self.configured = limits.queues
        self._max_queued = limits.max_queued
        self._counts: dict[str, dict[State, int]] = {}
        self._totals = dict.fromkeys(_UNDONE, 0)  # of all queues
        self._open: dict[
            str, int
        ] = {}  # how many more jobs each queue may run that may run any, unless all are paused
        self._pauses = pauses
        self.limits: Mapping[str, QueueLimit] = {}
        self._submitters = SubmitterCounts(limits.submitters)
        for line, state, number in undone:
            self._change(line, state, number)
        self.limit_queues(stored)

    @property
    def pauses(self) -> Pauses:
        return self._pauses

    @pauses.setter
    def pauses(self, pauses: Pauses) -> None:
        self._pauses = pauses
        for name in self._counts:
            self._update_capacity(name)

    def _of_queue(self, queue: str) -> dict[State, int]:
        counts = self._counts.get(queue)
        if counts is None:
            counts = self._counts[queue] = dict.fromkeys(_UNDONE, 0)
            self._update_capacity(queue)
        return counts

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the queues, in order."""
        return iter(sorted(self._counts))

    def __contains__(self, queue: object) -> bool:
        return queue in self._counts

    def count(self, queue: str, state: State) -> int:
        """Return how many jobs of the queue are in this state, which is not `done`."""
        return self._counts[queue][state]

    def limit(self, queue: str) -> QueueLimit:
        """Return the limits of the queue."""
        return self.limits.get(queue, _NO_LIMIT)

    def limit_queues(self, stored: Mapping[str, QueueLimit]) -> None:
        """Apply the limits that were set at run time, in place of those of config, from now on."""
        self.limits = {**self.configured, **stored}
        for name in self.limits:
            self._of_queue(name)
        for name in self._counts:
            self._update_capacity(name)

    def remove(self, queue: str) -> None:
        """Forget a queue that has neither a limit nor jobs any more."""
        if queue not in self.limits and not any(self._of_queue(queue).values()):
            del self._counts[queue]
            self._open.pop(queue, None)

    def why_queued(self, queued: Queued, failure: StoreUnavailable | None) -> Pending:
        """Return the first thing that keeps a queued job from starting; `failure`: why nothing can be claimed now.

        It is asked for each queued job of a list, so it reads no history. If nothing else does, all places are taken.
        """
        queue, submitter = queued.queue, queued.submitter
        if ALL_QUEUES in self.pauses.queues:
            detail = self.pauses.held.reason if self.pauses.held else "all queues are paused"
            return Pending(PendingReason.SERVICE_PAUSED, detail)
        if queue in self.pauses.queues:
            return Pending(PendingReason.QUEUE_PAUSED, f"queue {queue} is paused")
        if queue in self._counts and self._capacity(queue) <= 0:
            limit = _jobs(self.limit(queue).max_running)
            return Pending(PendingReason.QUEUE_LIMIT, f"queue {queue} runs at most {limit} at once")
        if not self._submitters.may_start(submitter):
            limit = _jobs(self._submitters.max_running(submitter))
            return Pending(PendingReason.TOKEN_LIMIT, f"{submitter} runs at most {limit} at once")
        if failure is not None:
            return Pending(PendingReason.STORAGE, failure.detail)
        return Pending(PendingReason.PLACES, _no_place(self._totals[State.RUNNING]))

    def is_paused(self, queue: str) -> bool:
        """Return whether the queue starts no jobs, by its own pause or the whole service's."""
        return queue in self.pauses.queues or ALL_QUEUES in self.pauses.queues

    def apply(self, transition: Transition) -> None:
        """Follow a job from one state to another."""
        before, after = transition.before, transition.after
        if before is after and transition.previous_queue is None:
            return
        if before is not None and before is not State.DONE:
            self._change(Line(transition.previous_queue or transition.queue, transition.submitter), before, -1)
        if after is not None and after is not State.DONE:
            self._change(Line(transition.queue, transition.submitter), after, 1)

    def _change(self, line: Line, state: State, number: int) -> None:
        self._of_queue(line.queue)[state] += number
        self._totals[state] += number
        self._submitters.change(line, state, number)
        if state is State.RUNNING:
            self._update_capacity(line.queue)

    def limit_submitters(self, limits: Mapping[str, SubmitterLimit]) -> None:
        """Apply these limits from now on; jobs that run or wait already stay."""
        self._submitters.limits = limits

    def lines(self) -> set[Line]:
        """Return the lines in which jobs are queued."""
        return set(self._submitters.lines())

    def capacity(self) -> Capacity:
        """Return how many more jobs may run, for each queue that may start any now."""
        if ALL_QUEUES in self._pauses.queues:
            return Capacity({}, {})
        return Capacity(self._open.copy(), self._submitters.capacity())

    def _update_capacity(self, queue: str) -> None:
        capacity = 0 if queue in self._pauses.queues else self._capacity(queue)
        if capacity > 0:
            self._open[queue] = capacity
        else:
            self._open.pop(queue, None)

    def _capacity(self, queue: str) -> int:
        max_running = self.limits.get(queue, _NO_LIMIT).max_running
        return _UNLIMITED if max_running is None else max_running - self._counts[queue][State.RUNNING]

    def has_startable(self) -> bool:
        """Return whether a job is queued that may start now."""
        paused = self.pauses.queues
        if ALL_QUEUES in paused:
            return False
        for queue, submitter in self._submitters.lines():
            if queue not in paused and self._capacity(queue) > 0 and self._submitters.may_start(submitter):
                return True
        return False

    def unstarted(self, queue: str | None = None) -> int:
        """Return how many jobs have not started, of one queue or of all."""
        counts = self._totals if queue is None else self._of_queue(queue)
        return counts[State.QUEUED] + counts[State.WAITING]

    def refusal(self, wanted: "Places", reserved: "Places") -> QueueFull | TooManyQueuedJobs | None:
        """Return why no further jobs may wait in these places, beside those that are reserved; or None."""
        for submitter, number in wanted.by_submitter.items():
            if refusal := self._submitters.refusal(submitter, number, reserved=reserved.by_submitter[submitter]):
                return refusal
        number, limit = wanted.by_queue.total(), self._max_queued
        if limit is not None and number > (room := limit - self.unstarted() - reserved.by_queue.total()):
            return QueueFull("the service", limit, wanted=number, room=max(room, 0))
        found = (self.queue_refusal(queue, number, reserved) for queue, number in wanted.by_queue.items())
        return next((refusal for refusal in found if refusal), None)

    def room(self, line: Line) -> int:
        """Return how many more jobs of this line may wait, by the tightest of its limits."""
        spaces = [_UNLIMITED, self._submitters.room(line.submitter)]
        if self._max_queued is not None:
            spaces.append(self._max_queued - self.unstarted())
        limit = self.limit(line.queue).max_queued
        if limit is not None:
            spaces.append(limit - self.unstarted(line.queue))
        return min(spaces)

    def queued(self, line: Line) -> int:
        """Return how many jobs of this line are queued."""
        return self._submitters.queued(line)

    def runs_any_number(self, submitter: str | None) -> bool:
        """Return whether the submitter may run any number of jobs."""
        return self._submitters.max_running(submitter) is None

    def is_limited(self, line: Line) -> bool:
        """Return whether the queue or the submitter has a limit of running jobs."""
        return self.limit(line.queue).max_running is not None or (
            self._submitters.max_running(line.submitter) is not None
        )

    def queue_refusal(self, queue: str, number: int, reserved: "Places") -> QueueFull | None:
        """Return why no further jobs may wait in this queue, beside those for which places are reserved; or None."""
        limit = self.limit(queue).max_queued
        if limit is not None and number > (room := limit - self.unstarted(queue) - reserved.by_queue[queue]):
            return QueueFull(f"queue {queue}", limit, wanted=number, room=max(room, 0))
        return None


def _jobs(number: int | None) -> str:
    return f"{number} job{'' if number == 1 else 's'}"


def _no_place(running: int) -> str:
    if running == 0:
        return "no keeper is ready yet to run it"
    return f"the service is at its limit: {_jobs(running)} {'is' if running == 1 else 'are'} running"


class Places:
    """Places of jobs that are to wait, by queue and by submitter."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        """Begin with a place in each of these lines."""
        self.by_queue: Counter[str] = Counter()
        self.by_submitter: Counter[str | None] = Counter()
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Add a place in this line."""
        self.by_queue[line.queue] += 1
        self.by_submitter[line.submitter] += 1
