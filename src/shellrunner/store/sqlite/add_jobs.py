"""Adding and editing jobs, as items of a write batch: Idempotency-Keys, places in the queues, rows.

Owned by `claims`, which may pair jobs with claim requests. Must not know connections or transactions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shellrunner.clock import Millis, now_ms
from shellrunner.errors import OutcomeUnknown
from shellrunner.model import Claim, Job
from shellrunner.store.components.batch_queue import WorkItem
from shellrunner.store.components.queue_counts import Places, QueueCounts
from shellrunner.store.db import Db
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.sqlite.claim_requests import ClaimRequest
from shellrunner.store.sqlite.queueing_item import QueueingItem
from shellrunner.store.state_files.high_water import HighWaterFile
from shellrunner.store.transition import Transitions
from shellrunner.store.units import admission, editing, idempotency_keys
from shellrunner.store.units.admission import NewJob
from shellrunner.store.values import IdempotencyKey, JobEdit


class Reservations:
    """Places in the queues that the jobs of a write batch take; the counts know of them only after the commit.

    Whether a job takes one is known only when it is written: its key may stand for another, or it may be refused.
    """

    def __init__(self, counts: QueueCounts) -> None:
        self._counts = counts
        self._reserved = Places()
        self._items: set[WorkItem] = set()

    def check(self, item: "AddJobs") -> None:
        """Check that the item's jobs may wait, before they are written.

        Raises:
            QueueFull, TooManyQueuedJobs: they may not.
        """
        self._begin(item)
        refusal = self._counts.refusal(Places(each.new.line for each in item.unpaired), self._reserved)
        if refusal is not None:
            raise refusal

    def reserve(self, item: "AddJobs", jobs: Sequence[Job]) -> None:
        """Take places for the item's jobs, which were written."""
        self._items.add(item)
        for added, job in zip(item.jobs, jobs, strict=True):
            if added.request is None and not job.done:
                self._reserved.add(added.new.line)

    def move(self, item: "EditJob", queue: str) -> None:
        """Take a place in this queue for the item's job, which has one in another queue.

        Raises:
            QueueFull: there is none.
        """
        self._begin(item)
        refusal = self._counts.queue_refusal(queue, 1, self._reserved)
        if refusal is not None:
            raise refusal
        self._items.add(item)
        self._reserved.by_queue[queue] += 1

    def _begin(self, item: WorkItem) -> None:
        if item in self._items:  # it is run again: what the batch had reserved was rolled back
            self._items.clear()
            self._reserved = Places()


@dataclass(slots=True, eq=False)
class AddedJob:
    """A job that is to be added, and the claim request that gets it in the same commit, if any.

    is_startable: it is certain that a new job is added, and that it may start at once, without a place to wait. One
    with retries needs a place: between its attempts it waits, and nothing can be refused then.
    """

    new: NewJob
    is_startable: bool
    request: ClaimRequest | None = None

    @property
    def owner(self) -> SlotOwner | None:
        """Who has claimed it, once it is added."""
        return None if self.request is None else SlotOwner(self.request.keeper, self.request.token)

    def claim(self, job_id: int, request: ClaimRequest) -> Claim:
        """Return the claim that was committed with the job."""
        return self.new.claim(job_id, SlotOwner(request.keeper, request.token))


class EditJob(QueueingItem):
    """A job that is to be changed before it starts. Its `value`: the job as it is then, and what was done to it.

    reservations: of the write batch.
    """

    __slots__ = ("reservations",)

    def __init__(self, edit: JobEdit, on_commit: Callable[[Transitions], None]) -> None:
        def unit(db: Db) -> tuple[Job, Transitions]:
            return editing.edit(db, edit, now_ms(), self._move)

        super().__init__(unit, lambda value: on_commit(value[1]), lambda value: value[1])
        self.reservations: Reservations | None = None

    def _move(self, queue: str) -> None:
        assert self.reservations is not None  # noqa: S101  `Claims.plan` gives each its batch's
        self.reservations.move(self, queue)


class AddJobs(WorkItem):
    """Jobs that are to be added, all or none. Its `value`: as accepted, or as they are now if their key is known.

    reservations: of the write batch, if any of them has to wait for its turn.
    transitions: what was done to jobs; empty if their key is known already.
    """

    __slots__ = ("_discard_key", "_high_water", "_key", "_seen_now", "jobs", "reservations", "transitions")

    def __init__(
        self,
        new: Sequence[NewJob],
        key: IdempotencyKey | None,
        high_water: HighWaterFile,
        on_commit: Callable[["AddJobs"], None],
        seen_now: Callable[[], Millis],
        *,
        discard_key: Callable[[str], None],
    ) -> None:
        """`discard_key` destroys the key of a job that was not added after all."""
        super().__init__(self._add, lambda _: on_commit(self), needs_room=True)
        self.jobs = [AddedJob(each, key is None and each.is_startable and each.spec.retries is None) for each in new]
        self.reservations: Reservations | None = None
        self.transitions: Transitions = []
        self._key = key
        self._seen_now, self._discard_key = seen_now, discard_key
        self._high_water = high_water

    @property
    def unpaired(self) -> list[AddedJob]:
        """The jobs that no claim request gets in the same commit."""
        return [each for each in self.jobs if each.request is None]

    def _add(self, db: Db) -> list[Job]:
        self.transitions = []
        if self._key is not None:
            known = idempotency_keys.find(db, self._key, self._seen_now(), len(self.jobs))
            if known:
                return known
        if self.reservations is not None:
            self.reservations.check(self)
        self._high_water.reserve_ids(len(self.jobs))
        added, self.transitions = admission.add(db, [(each.new, each.owner) for each in self.jobs])
        self._high_water.id_given(added[-1].id)
        if self._key is not None:
            idempotency_keys.add(db, self._key, added[0].id, added[0].created, self._seen_now())
        if self.reservations is not None:
            self.reservations.reserve(self, added)
        return added

    def settle(self) -> None:
        """Apply the consequences and answer the caller; destroy the keys of secrets that no row needs."""
        super().settle()
        is_needed = isinstance(self.error, OutcomeUnknown) or (self.error is None and self.transitions)
        if not is_needed:
            for each in self.jobs:
                if each.new.key is not None:
                    self._discard_key(each.new.key.name)
