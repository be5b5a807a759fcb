"""Which jobs changed lately, and in which order: a bounded memory behind the stream of all statuses.

Owned by the store, on the loop's thread. Must not know what changed.
"""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from typing import Final, Protocol

_REMEMBERED: Final = 20_000  # jobs; each is a few dozen bytes


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
    """See `store.ChangeLog`. Counted anew at each opening, so an `epoch` tells one counting from another."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self.epoch = secrets.token_hex(4)
        self.head = 0
        self._remembered = remembered
        self._latest: OrderedDict[int, int] = OrderedDict()  # job → its latest change, oldest first
        self._forgotten = 0  # the latest change that is not remembered any more

    def note(self, job_id: int) -> None:
        """The job changed, or is gone."""
        self.head += 1
        self._latest[job_id] = self.head
        self._latest.move_to_end(job_id)
        if len(self._latest) > self._remembered:
            _, self._forgotten = self._latest.popitem(last=False)

    def since(self, number: int) -> Sequence[tuple[int, int]] | None:
        """The jobs that changed after that, as (change, job), in order; None if that is too long ago."""
        if not self._forgotten <= number <= self.head:
            return None
        newer = takewhile(lambda item: item[1] > number, reversed(self._latest.items()))
        return [(change, job_id) for job_id, change in newer][::-1]
