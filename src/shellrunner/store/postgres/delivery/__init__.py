"""Delivery: which queued job is offered to which node. A hint only: that a job is claimed once is the claim's affair.

One of three engines, each a few statements in the caller's transaction: `pgqueuer_engine` (as shipped), `table`
(FOR UPDATE SKIP LOCKED on the jobs themselves), and `adversarial` for tests, which loses, doubles and delays
deliveries. What an engine forgets, the sweep delivers again. Must not know claims, hosts or limits.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shellrunner.store.db import Db
from shellrunner.store.queues import Line


class Delivered(NamedTuple):
    """A job that is offered, and what the engine knows it by.

    priority: with which it is offered; None: whatever it has. One that has another by now is offered with that, too.
    """

    job_id: int
    handle: int
    priority: int | None = None


class QueuedJob(NamedTuple):
    """A job that may be claimed from now on."""

    job_id: int
    line: Line
    priority: int


class DeliveryEngine(Protocol):
    """Hands each queued job to one transaction after the other, the highest priority first, then the oldest."""

    def enqueue(self, db: Db, jobs: Sequence[QueuedJob], /) -> None:
        """Offer these jobs from the commit on; one may be offered already, as it was before it was edited."""

    def dequeue(self, db: Db, lines: Sequence[Line], limit: int, /) -> Sequence[Delivered]:
        """Return up to `limit` jobs of these lines, in the order of claims; no other transaction gets them."""

    def settle(self, db: Db, delivered: Sequence[Delivered], /) -> None:
        """Forget these jobs: they were claimed, or are not queued any more."""

    def forget_unclaimable(self, db: Db, lines: Sequence[Line], /) -> None:
        """Forget offers of jobs of these lines that were cancelled, edited or deleted: of the next thousands."""

    def find_lost(self, db: Db, /, older_than: int) -> Sequence[QueuedJob]:
        """Return jobs that have been queued since before `older_than` and are not offered: some of them, if many.

        The sweep. It only reads, in a time that grows with all that is queued. `older_than`: milliseconds since the
        epoch.
        """

    def redeliver(self, db: Db, /, lost: Sequence[QueuedJob]) -> None:
        """Offer again what was found, if anything: it may be claimed by now. Forget what the engine has logged."""
