"""The change log: which jobs changed lately, and in which order, for the stream of all statuses.

Owned by the store, on the event loop's thread, with a bounded size. Must not know what changed.
"""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from typing import Final, Protocol

_MAX_JOBS: Final = 20_000  # each takes a few dozen bytes


class ChangeLog(Protocol):
    """Which jobs changed in which order since the history was opened: the latest changes only, a bounded number."""

    @property
    def epoch(self) -> str:
        """The random id of this opening: change numbers of different epochs must not be compared."""

    @property
    def head(self) -> int:
        """The number of the latest change; 0 before the first."""

    def since(self, number: int) -> Sequence[tuple[int, int]] | None:
        """Return the jobs that changed after change `number`, each once, as (latest change, job id) in that order.

        None if the log does not reach back to `number`.
        """


class InMemoryChangeLog:
    """A `ChangeLog` that starts at 0 whenever the history is opened, so each opening has an `epoch` of its own."""

    def __init__(self, max_jobs: int = _MAX_JOBS) -> None:
        self.epoch = secrets.token_hex(4)
        self.head = 0
        self._max_jobs = max_jobs
        self._latest: OrderedDict[int, int] = OrderedDict()  # job id -> its latest change, the oldest first
        self._dropped = 0  # the latest change that is not in the log any more

    def append(self, job_id: int) -> None:
        """Record that the job changed, or was deleted."""
        self.head += 1
        self._latest[job_id] = self.head
        self._latest.move_to_end(job_id)
        if len(self._latest) > self._max_jobs:
            _, self._dropped = self._latest.popitem(last=False)

    def since(self, number: int) -> Sequence[tuple[int, int]] | None:
        """Return the jobs that changed after change `number`, as (latest change, job id) in that order."""
        if not self._dropped <= number <= self.head:
            return None
        newer = takewhile(lambda item: item[1] > number, reversed(self._latest.items()))
        return [(change, job_id) for job_id, change in newer][::-1]
