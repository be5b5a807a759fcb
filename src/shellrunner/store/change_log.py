"""The change log: which jobs changed lately, and in which order, for the stream of all statuses.

Owned by the store, on the event loop's thread, with a bounded size. Must not know what changed.
"""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

_MAX_JOBS: Final = 20_000  # each takes a few dozen bytes
_CHANGES_PER_JOB: Final = 4  # at least so many are remembered, on average


class ChangeLog(Protocol):
    """Which jobs changed in which order since the history was opened: the latest changes only, a bounded number."""

    @property
    def epoch(self) -> str:
        """The random id of this opening: change numbers of different epochs must not be compared."""

    @property
    def head(self) -> int:
        """The number of the latest change; 0 before the first."""

    def since(self, number: int, limit: int) -> Sequence[tuple[int, int]] | None:
        """Return the jobs that changed after change `number`, each once, as (latest change, job id) in that order.

        At most `limit` of them, the first ones. None if the log does not reach back to `number`.
        """


class InMemoryChangeLog:
    """A `ChangeLog` that starts at 0 whenever the history is opened, so each opening has an `epoch` of its own."""

    def __init__(self, max_jobs: int = _MAX_JOBS) -> None:
        self.epoch = secrets.token_hex(4)
        self.head = 0
        self._max_jobs = max_jobs
        self._latest: OrderedDict[int, int] = OrderedDict()  # job id -> its latest change, the oldest first
        self._jobs: list[int] = []  # that changed: of each change from number `_first` on
        self._first = 1
        self._dropped = 0  # the latest change that is not in the log any more, although its job did not change again

    def append(self, job_id: int) -> None:
        """Record that the job changed, or was deleted."""
        self.head += 1
        self._jobs.append(job_id)
        self._latest[job_id] = self.head
        self._latest.move_to_end(job_id)
        if len(self._latest) > self._max_jobs:
            self._drop_oldest()
        if len(self._jobs) > 2 * _CHANGES_PER_JOB * self._max_jobs:
            self._trim()

    def forget(self) -> None:
        """Forget all changes, as some were missed: `since` says of every earlier number that it is too old."""
        self.head += 1
        self._latest.clear()
        self._jobs.clear()
        self._first, self._dropped = self.head + 1, self.head

    def _drop_oldest(self) -> None:
        _, self._dropped = self._latest.popitem(last=False)

    def _trim(self) -> None:
        """Forget the older half of the changes."""
        half = len(self._jobs) // 2
        del self._jobs[:half]
        self._first += half
        while next(iter(self._latest.values())) < self._first:
            self._drop_oldest()

    def since(self, number: int, limit: int) -> Sequence[tuple[int, int]] | None:
        """Return the first `limit` jobs that changed after change `number`, as (latest change, job id) in that order.

        However far back that is, it costs little more than what is returned.
        """
        if not self._dropped <= number <= self.head:
            return None
        found: list[tuple[int, int]] = []
        for change in range(max(number + 1, self._first), self.head + 1):
            job_id = self._jobs[change - self._first]
            if self._latest.get(job_id) == change:
                found.append((change, job_id))
                if len(found) == limit:
                    break
        return found
