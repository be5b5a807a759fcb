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
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from shellrunner.clock import now_ms
from shellrunner.errors import ShellrunnerError, StoreUnavailable
from shellrunner.model import Claim
from shellrunner.store.components.batch_queue import BatchQueue, WorkItem
from shellrunner.store.components.queue_counts import Places, QueueCounts
from shellrunner.store.db import Db
from shellrunner.store.queues import Capacity, Line
from shellrunner.store.sqlite.add_jobs import AddedJob, AddJobs, EditJob, Reservations
from shellrunner.store.sqlite.claim_requests import ClaimRequest, ClaimRequests
from shellrunner.store.sqlite.queueing_item import QueueingItem
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import claiming, lifecycle
from shellrunner.store.units.claiming import ClaimResult, Unsealer

log = logging.getLogger("shellrunner.store")

_RETRY_DELAY: Final = 0.5  # seconds, after a commit that failed


class Claims:
    """Serves the claim requests; the planner of the write batches."""

    def __init__(
        self,
        requests: ClaimRequests,
        counts: QueueCounts,
        listener: CommitListener,
        writes: BatchQueue[Any],
        unseal: Unsealer,
    ) -> None:
        """`unseal` reads the secrets of jobs that were queued."""
        self._unseal = unseal
        self._requests = requests
        self._counts = counts
        self._listener = listener
        self._writes = writes

    def plan(self, batch: Sequence[WorkItem]) -> WorkItem | None:
        """Pair the jobs that `batch` adds with requests; return the item that chooses jobs for the other requests.

        Called when no batch is under way, so the counts are exact.
        """
        adds = [item for item in batch if isinstance(item, AddJobs)]
        requests = self._requests.waiting()
        capacity = self._counts.capacity() if requests else Capacity({}, {})
        queueing = [item for item in batch if isinstance(item, QueueingItem)]
        in_order = bool(capacity) and not queueing and not self._counts.has_startable()
        if in_order and adds:
            requests = _pair([job for add in adds for job in add.jobs], requests, capacity)
        unpaired = [add for add in adds if add.unpaired] if adds else []
        edits = [item for item in queueing if isinstance(item, EditJob)] if queueing else []
        if unpaired or edits:
            in_order = False
            reservations = Reservations(self._counts)
            for add in unpaired:
                add.reservations = reservations
            for edit in edits:
                edit.reservations = reservations
        if in_order or not requests or not capacity:
            return None
        lines = self._counts.lines().union(job.new.line for add in adds for job in add.jobs)
        return self._choosing(requests, capacity, lines, queueing)

    def refusal(self, queue: str) -> ShellrunnerError | None:
        """Return why a job that may start at once would not be accepted into the queue now; or None."""
        starts = bool(self._requests.waiting()) and not self._counts.has_startable()
        line = Line(queue, None)
        if starts and self._counts.capacity().allows(line):
            return None
        return self._counts.refusal(Places([line]), Places())

    def _choosing(
        self, requests: list[ClaimRequest], capacity: Capacity, lines: set[Line], queueing: list[QueueingItem]
    ) -> WorkItem:
        def choose(db: Db) -> ClaimResult:
            # By now the items before this one were run, so it is known where they have queued jobs.
            all_lines = lines.union(*(item.queued_lines() for item in queueing))
            return claiming.choose(db, requests, capacity, all_lines, now_ms(), unseal=self._unseal)

        return WorkItem(choose, partial(self._chosen, requests), on_failure=self._retry)

    def _chosen(self, requests: list[ClaimRequest], result: ClaimResult) -> None:
        self._listener.committed(result.transitions)
        for request, claim in zip(requests, result.claims, strict=False):
            self._deliver(request, claim)

    def jobs_added(self, add: AddJobs) -> None:
        """Follow jobs that were added, and deliver the claims of those that were paired with a request."""
        self._listener.committed(add.transitions)
        for added, job in zip(add.jobs, add.value, strict=True):
            if added.request is not None:
                self._deliver(added.request, added.claim(job.id, added.request))

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
            self._writes.put(QueueingItem(requeue_unit, self._listener.committed, frees_space=True))

    def _retry(self, error: Exception) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(_RETRY_DELAY, self._writes.wake)
        if isinstance(error, OSError):
            log.warning("the key of a job cannot be read now", extra={"reason": error.strerror, "repeats": "key"})
        elif not isinstance(error, StoreUnavailable):  # a bug, which is reported; the requests wait on
            loop.call_exception_handler({"message": "choosing jobs failed", "exception": error})


def _pair(jobs: list[AddedJob], requests: list[ClaimRequest], capacity: Capacity) -> list[ClaimRequest]:
    """Give jobs that may start to requests, the highest priority first; return the requests that are left."""
    left = iter(requests)
    # A stable sort: within a priority, the first added is first.
    for job in sorted(jobs, key=lambda job: -job.new.spec.priority):
        if job.is_startable and capacity.allows(job.new.line):
            job.request = next(left, None)
            if job.request is None:
                break
            capacity.take(job.new.line)
    return list(left)
