"""Adding a job, as an item of a write batch: its Idempotency-Key, its place in the queue, its row.

Owned by `claims`, which may pair it with a claim request. Must not know connections or transactions.
"""

from collections.abc import Callable

from shellrunner.clock import Millis
from shellrunner.errors import OutcomeUnknown
from shellrunner.model import Claim, Job
from shellrunner.store.db import Db
from shellrunner.store.high_water import HighWaterFile
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.sqlite.claim_requests import ClaimRequest
from shellrunner.store.sqlite.engine.batch_queue import WorkItem
from shellrunner.store.sqlite.queue_counts import QueueCounts, Reserved
from shellrunner.store.transition import Transitions
from shellrunner.store.units import admission, idempotency_keys
from shellrunner.store.units.admission import NewJob
from shellrunner.store.values import IdempotencyKey


class Reservations:
    """Places in the queues that the jobs of a batch take; the counts know of them only after the commit.

    Whether a job takes one is known only when it is written: its key may stand for another, or it may be refused.
    """

    def __init__(self, counts: QueueCounts) -> None:
        self._counts = counts
        self._reserved = Reserved()
        self._items: set[AddJob] = set()

    def check(self, item: "AddJob") -> None:
        """Check that one more job may wait, before it is written.

        Raises:
            QueueFull, TooManyQueuedJobs: it may not.
        """
        if item in self._items:  # it is run again: what the batch had reserved was rolled back
            self._items.clear()
            self._reserved = Reserved()
        refusal = self._counts.refusal(item.new.line, self._reserved)
        if refusal is not None:
            raise refusal

    def reserve(self, item: "AddJob") -> None:
        """Take a place for a job that was written."""
        self._items.add(item)
        self._reserved.add(item.new.line)


class AddJob(WorkItem):
    """A job that is to be added. Its `value` is the job as accepted, or as it is now if its key is known already.

    request: the claim request that gets the job in the same commit, if any.
    reservations: of the batch, if the job has to wait for its turn.
    transitions: what was done to jobs; empty if its key is known already.
    """

    __slots__ = ("_discard_key", "_high_water", "_key", "_seen_now", "new", "request", "reservations", "transitions")

    def __init__(
        self,
        new: NewJob,
        key: IdempotencyKey | None,
        high_water: HighWaterFile,
        on_commit: Callable[["AddJob"], None],
        seen_now: Callable[[], Millis],
        *,
        discard_key: Callable[[str], None],
    ) -> None:
        """`discard_key` destroys the key of a job that was not added after all."""
        super().__init__(self._add, lambda _: on_commit(self), needs_room=True)
        self.new = new
        self.request: ClaimRequest | None = None
        self.reservations: Reservations | None = None
        self.transitions: Transitions = []
        self._key = key
        self._seen_now, self._discard_key = seen_now, discard_key
        self._high_water = high_water

    @property
    def is_startable(self) -> bool:
        """Whether it is certain that a new job is added, and that it may start at once, without a place to wait.

        One with retries needs a place: between its attempts it waits, and nothing can be refused then.
        """
        return self._key is None and self.new.is_startable and self.new.spec.retries is None

    def _add(self, db: Db) -> Job:
        self.transitions = []
        if self._key is not None:
            known = idempotency_keys.find(db, self._key, self._seen_now())
            if known is not None:
                return known
        if self.reservations is not None:
            self.reservations.check(self)
        self._high_water.reserve_id()
        owner = SlotOwner(self.request.keeper, self.request.token) if self.request is not None else None
        job, self.transitions = admission.add(db, self.new, owner)
        self._high_water.id_given(job.id)
        if self._key is not None:
            idempotency_keys.add(db, self._key, job.id, self.new.created, self._seen_now())
        if self.reservations is not None and not job.done:
            self.reservations.reserve(self)
        return job

    def settle(self) -> None:
        """Apply the consequences and answer the caller; destroy the key of its secrets if no row needs it."""
        super().settle()
        is_needed = isinstance(self.error, OutcomeUnknown) or (self.error is None and self.transitions)
        if self.new.key is not None and not is_needed:
            self._discard_key(self.new.key.name)

    def claim(self, request: ClaimRequest) -> Claim:
        """Return the claim that was committed with the job."""
        new = self.new
        return Claim(
            self.value.id,
            request.token,
            request.keeper,
            new.spec,
            new.created,
            ready=new.created,
            run_as=new.run_as,
            kill_only=new.kill_only,
        )
