"""Claims: keepers wait in line, and are served at the end of each write batch, in its commit.

Owned by the store. Decides which claim requests a batch serves, and delivers the claims; `claim_requests` is the line
of those that wait, `units.claiming` the SQL that chooses the jobs. Must not know keepers as processes.

Accepting a job and claiming it are one commit, and so are finishing one job and claiming the next:

      event loop                                       thread of the writing connection
    ─────────────────────────────────────────────────────────────────────────────────────────────────────
    claim() ──> ClaimRequests (first in, first out) ─┐
    add(), finish(), ... ──> BatchQueue ──> plan() ──┤
                                                     └─> BEGIN IMMEDIATE
                                                           add job 7         INSERT ... 'running'   paired
                                                           add job 8         INSERT ... 'queued'
                                                           finish job 3      UPDATE ... 'done'
                                                           choose jobs for   UPDATE ... 'running'   highest
                                                             the requests                           priority,
                                                             that are left                          then oldest
                                                    ┌──  COMMIT
    settle(), one item after the other  <───────────┘
      consequences: counts, notifications, retention, indexing
      add(), finish() and claim() return

`plan` pairs jobs with requests as long as nothing is queued before them: such a job is written as running, which
saves a statement. As soon as anything is queued, or may be queued by the batch, the order of claims decides, so the
jobs are written as queued and `choose` runs last. If the commit fails, every caller learns of it, and the requests
stay in line.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from shellrunner.clock import now_ms
from shellrunner.errors import QueueFull, StoreUnavailable
from shellrunner.model import Claim
from shellrunner.store.db import Db
from shellrunner.store.sqlite.add_job import AddJob, Reservations
from shellrunner.store.sqlite.claim_requests import ClaimRequest, ClaimRequests
from shellrunner.store.sqlite.engine.batch_queue import BatchQueue, WorkItem
from shellrunner.store.sqlite.queue_counts import QueueCounts
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import claiming, lifecycle
from shellrunner.store.units.claiming import ClaimResult

_RETRY_DELAY: Final = 0.5  # seconds, after a commit that failed


class Claims:
    """Serves the claim requests; the planner of the write batches."""

    def __init__(
        self, requests: ClaimRequests, counts: QueueCounts, listener: CommitListener, writes: BatchQueue
    ) -> None:
        self._requests = requests
        self._counts = counts
        self._listener = listener
        self._writes = writes

    def plan(self, batch: Sequence[WorkItem]) -> WorkItem | None:
        """Pair the jobs that `batch` adds with requests; return the item that chooses jobs for the other requests.

        Called when no batch is under way, so the counts are exact.
        """
        adds = [item for item in batch if isinstance(item, AddJob)]
        requests = self._requests.waiting()
        capacity = self._counts.capacity() if requests else {}
        in_order = bool(capacity) and not self._counts.has_startable() and not any(item.may_queue for item in batch)
        if adds:
            if in_order:
                requests = _pair(adds, requests, capacity)
            unpaired = [add for add in adds if add.request is None]
            if unpaired:
                in_order = False
                reservations = Reservations(self._counts)
                for add in unpaired:
                    add.reservations = reservations
        return None if in_order or not requests or not capacity else self._choosing(requests, capacity)

    def refusal(self, queue: str) -> QueueFull | None:
        """Return why a job that may start at once would not be accepted into the queue now; or None."""
        starts = bool(self._requests.waiting()) and not self._counts.has_startable()
        if starts and self._counts.capacity().get(queue, 0) > 0:
            return None
        return self._counts.refusal(queue, reserved=0, reserved_in_queue=0)

    def _choosing(self, requests: list[ClaimRequest], capacity: dict[str, int]) -> WorkItem:
        item = WorkItem(lambda db: claiming.choose(db, requests, capacity, now_ms()), partial(self._chosen, requests))
        item.future.add_done_callback(self._retry_if_failed)
        return item

    def _chosen(self, requests: list[ClaimRequest], result: ClaimResult) -> None:
        self._listener.committed(result.transitions)
        for request, claim in zip(requests, result.claims, strict=False):
            self._deliver(request, claim)

    def job_added(self, add: AddJob) -> None:
        """Follow a job that was added, and deliver its claim if it was paired with a request."""
        self._listener.committed(add.transitions)
        if add.request is not None:
            self._deliver(add.request, add.claim(add.request))

    def _deliver(self, request: ClaimRequest, claim: Claim) -> None:
        self._requests.remove(request)
        if request.future.done():
            self.put_back(claim)
        else:
            request.future.set_result(claim)

    def put_back(self, claim: Claim) -> None:
        """Requeue a claim whose caller was cancelled; if that fails, the next reconciliation judges it."""

        def requeue_unit(db: Db) -> Transitions:
            return lifecycle.requeue(db, claim.job_id, claim.token, now_ms())

        with suppress(StoreUnavailable):
            item = WorkItem(requeue_unit, self._listener.committed, frees_space=True, may_queue=True)
            self._writes.submit(item).add_done_callback(asyncio.Future.exception)

    def _retry_if_failed(self, future: asyncio.Future[ClaimResult]) -> None:
        error = future.exception()
        if error is None:
            return
        asyncio.get_running_loop().call_later(_RETRY_DELAY, self._writes.wake)
        if not isinstance(error, StoreUnavailable):
            raise error  # a bug: the loop reports it, and the requests wait on


def _pair(adds: list[AddJob], requests: list[ClaimRequest], capacity: dict[str, int]) -> list[ClaimRequest]:
    """Give jobs that may start to requests, the highest priority first; return the requests that are left."""
    left = iter(requests)
    # A stable sort: within a priority, the first added is first.
    for add in sorted(adds, key=lambda add: -add.new.spec.priority):
        queue = add.new.spec.queue
        if add.is_startable and capacity.get(queue, 0) > 0:
            add.request = next(left, None)
            if add.request is None:
                break
            capacity[queue] -= 1
    return list(left)
