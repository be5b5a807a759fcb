"""How many jobs of each submitter run and wait, and in which queues: in memory, like the counts of the queues.

Owned by `queue_counts`, on the event loop's thread. Must not know claims or SQL.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from shellrunner.errors import TooManyQueuedJobs
from shellrunner.model import State
from shellrunner.store.queues import Line, SubmitterLimit

Key = TypeVar("Key")

_UNLIMITED: Final = SubmitterLimit()


class SubmitterCounts:
    """The jobs of each submitter that are not done, and the limits of those that have any."""

    def __init__(self, limits: Mapping[str, SubmitterLimit]) -> None:
        """Start without jobs."""
        self.limits = limits
        self._running: Counter[str | None] = Counter()
        self._unstarted: Counter[str | None] = Counter()
        self._queued: Counter[Line] = Counter()

    def change(self, line: Line, state: State, number: int) -> None:
        """Count so many more jobs of this line in this state, which is not `done`."""
        if state is State.RUNNING:
            _add(self._running, line.submitter, number)
            return
        _add(self._unstarted, line.submitter, number)
        if state is State.QUEUED:
            _add(self._queued, line, number)

    def queued(self, line: Line) -> int:
        """Return how many jobs of the line are queued."""
        return self._queued[line]

    def lines(self) -> Iterator[Line]:
        """Iterate over the lines in which jobs are queued."""
        return iter(self._queued)

    def capacity(self) -> dict[str, int]:
        """Return how many more jobs may run, for each submitter that has a limit."""
        return {
            submitter: limit.max_running - self._running[submitter]
            for submitter, limit in self.limits.items()
            if limit.max_running is not None
        }

    def may_start(self, submitter: str | None) -> bool:
        """Return whether one more job of this submitter may run."""
        if not self.limits:
            return True
        limit = self.max_running(submitter)
        return limit is None or self._running[submitter] < limit

    def max_running(self, submitter: str | None) -> int | None:
        """Return how many jobs of this submitter may run at once; None: it has no such limit."""
        return self.limits.get(submitter or "", _UNLIMITED).max_running

    def room(self, submitter: str | None) -> int:
        """Return how many more jobs of this submitter may wait; a large number if it has no such limit."""
        limit = self.limits.get(submitter or "", _UNLIMITED).max_queued
        return 1 << 30 if limit is None else limit - self._unstarted[submitter]

    def refusal(self, submitter: str | None, wanted: int, *, reserved: int) -> TooManyQueuedJobs | None:
        """Return why not so many further jobs of this submitter may wait, beside those that will; or None."""
        limit = self.limits.get(submitter or "", _UNLIMITED).max_queued
        if limit is None:
            return None
        room = limit - self._unstarted[submitter] - reserved
        return TooManyQueuedJobs(limit, wanted=wanted, room=max(room, 0)) if wanted > room else None


def _add(counter: Counter[Key], key: Key, number: int) -> None:
    counter[key] += number
    if not counter[key]:  # submitters come and go
        del counter[key]
