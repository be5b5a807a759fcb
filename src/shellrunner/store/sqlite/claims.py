"""The standing claim: keepers that wait for a job, served by each write batch, in its commit.

Owned by the store. Knows who waits and which queues may start something; must not know keepers or processes.
While nothing is queued, a job that is added is claimed by being written as running: one statement less.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shellrunner.clock import now_ms
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, End, Ending, Job, State
from shellrunner.store import IdempotencyKey
from shellrunner.store.sqlite.batch_queue import WorkItem
from shellrunner.store.sqlite.queue_counts import QueueCounts
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import admission, dependents, idempotency_keys, lifecycle, rows
from shellrunner.store.units.admission import NewJob

_AGAIN: Final = 0.5  # seconds until claiming is tried again after a commit that failed


@dataclass(eq=False, slots=True)
class ClaimRequest:
    """A keeper that would take a job under this token."""

    keeper: int
    token: str
    claim: asyncio.Future[Claim] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class ClaimResult:
    """What a batch's claims came to."""

    claims: list[tuple[ClaimRequest, Claim]] = field(default_factory=list)
    moves: Transitions = field(default_factory=list)


class Reservations:
    """Places in the queues that a batch has taken, which the counts know only after its commit.

    Which job takes one shows only when it is written: another may be there already under its key, or refused.
    """

    def __init__(self, queues: QueueCounts) -> None:
        self._queues = queues
        self._more: Counter[str] = Counter()
        self._by: set[AddJob] = set()

    def check(self, add: "AddJob") -> None:
        """Have room for one more, before it is written.

        Raises:
            QueueFull: there is none.
        """
        if add in self._by:  # it is run again: what was taken before was rolled back
            self._by.clear()
            self._more.clear()
        queue = add.accepted.spec.queue
        full = self._queues.full(queue, more=self._more.total(), more_of_it=self._more[queue])
        if full is not None:
            raise full

    def take(self, add: "AddJob") -> None:
        """It waits from now on."""
        self._by.add(add)
        self._more[add.accepted.spec.queue] += 1


class AddJob(WorkItem):
    """A job that is being added, and the offer that has it at once, if one does.

    Its `value` is the job as it is accepted, or as it is now if it was accepted with this key before; `moves` are
    what was done for it.
    """

    __slots__ = ("_key", "accepted", "moves", "offer", "taken")

    def __init__(self, accepted: NewJob, key: IdempotencyKey | None, after: Callable[["AddJob"], None]) -> None:
        """`after` hears of it once it is committed."""
        super().__init__(self._add, lambda _: after(self))
        self.accepted = accepted
        self.moves: Transitions = []
        self.offer: ClaimRequest | None = None
        self.taken: Reservations | None = None  # if it has to wait for its turn
        self._key = key

    @property
    def at_once(self) -> bool:
        """Whether it is certain to be a new job, which nothing keeps from starting."""
        return self._key is None and self.accepted.at_once

    def _add(self, db: sqlite3.Connection) -> Job:
        self.moves = []
        if self._key is not None:
            known = idempotency_keys.find(db, self._key, self.accepted.created)
            if known is not None:
                return known
        if self.taken is not None:
            self.taken.check(self)
        owner = (self.offer.keeper, self.offer.token) if self.offer else None
        job, self.moves = admission.add(db, self.accepted, owner)
        if self._key is not None:
            idempotency_keys.keep(db, self._key, job.id, self.accepted.created)
        if self.taken is not None and not job.done:
            self.taken.take(self)
        return job


class Claims:
    """The offers that wait, in the order in which they were made."""

    def __init__(
        self,
        queues: QueueCounts,
        wake: Callable[[], None],
        served: Callable[[Claim, Transitions, bool], None],
        moved: Callable[[Transitions], None],
    ) -> None:
        """`wake` asks for a write batch now; `served` hears of each claim that was committed, with the moves that
        were made with it, and whether its waiter had gone meanwhile; `moved` of all other moves."""
        self._queues = queues
        self._wake = wake
        self._served = served
        self._moved = moved
        self._offers: dict[ClaimRequest, None] = {}

    def offer(self, keeper: int, token: str) -> ClaimRequest:
        """Let a keeper wait for a job."""
        offer = ClaimRequest(keeper, token)
        self._offers[offer] = None
        self.look()
        return offer

    def withdraw(self, offer: ClaimRequest) -> None:
        """It waits no longer."""
        self._offers.pop(offer, None)

    def look(self) -> None:
        """Have a batch if somebody waits for what is queued."""
        if self._offers and self._startable():
            self._wake()

    def close(self) -> None:
        """Nobody is served any more; who still waits is told so."""
        for offer in self._offers:
            if not offer.claim.done():
                offer.claim.set_exception(StoreUnavailable("the history is closed"))
        self._offers.clear()

    def standing(self, batch: Sequence[WorkItem]) -> WorkItem | None:
        """Let the keepers that wait have what `batch` adds; return what ends it: claims, if something is queued.

        Called when nothing is under way, so the counts are exact.
        """
        adding = [asked for asked in batch if isinstance(asked, AddJob)]
        offers = [offer for offer in self._offers if not offer.claim.done()]
        room = self._queues.room() if offers else {}
        certain = not (self._startable() or any(asked.queues for asked in batch))
        if adding:
            if certain:
                offers = _pair(adding, offers, room)
            taken = Reservations(self._queues)
            for add in adding:
                add.taken = None if add.offer else taken
            certain = certain and not any(add.taken for add in adding)
        return None if certain or not offers or not room else self._claiming(offers, room)

    def _startable(self) -> bool:
        """Whether something is queued that may run."""
        queues = self._queues
        return any(queues.count(name, State.QUEUED) for name in queues.room())

    def _claiming(self, offers: list[ClaimRequest], room: dict[str, int]) -> WorkItem:
        asked = WorkItem(lambda db: _serve(db, offers, dict(room)), self._tell)
        asked.future.add_done_callback(self._failed)
        return asked

    def _tell(self, served: ClaimResult) -> None:
        for offer, claim in served.claims:
            self.tell(offer, claim, [Transition(claim.job_id, claim.spec.queue, State.QUEUED, State.RUNNING)])
        self._moved(served.moves)

    def tell(self, offer: ClaimRequest, claim: Claim, moves: Transitions) -> None:
        """The claim was committed for this offer."""
        self._offers.pop(offer, None)
        gone = offer.claim.done()
        if not gone:
            offer.claim.set_result(claim)
        self._served(claim, moves, gone)

    def _failed(self, future: asyncio.Future[ClaimResult]) -> None:
        error = future.exception()
        if error is None:
            return
        asyncio.get_running_loop().call_later(_AGAIN, self._wake)
        if not isinstance(error, StoreUnavailable):
            raise error  # a bug: the loop reports it, and the offers wait on


def _pair(adding: list[AddJob], offers: list[ClaimRequest], room: dict[str, int]) -> list[ClaimRequest]:
    """Give jobs that start at once to offers, the most urgent first; the offers that are left."""
    left = list(reversed(offers))
    # Stable: of one priority, the first asked is first.
    for add in sorted(adding, key=lambda add: -add.accepted.spec.priority):
        queue = add.accepted.spec.queue
        if left and add.at_once and room.get(queue, 0) > 0:
            room[queue] -= 1
            add.offer = left.pop()
    return left[::-1]


def _serve(db: sqlite3.Connection, offers: list[ClaimRequest], room: dict[str, int]) -> ClaimResult:
    served = ClaimResult()
    now = now_ms()
    for offer in offers:
        queues = [queue for queue, left in room.items() if left > 0]
        claim = _claim(db, queues, offer, now, served)
        if claim is None:
            break
        room[claim.spec.queue] -= 1
        served.claims.append((offer, claim))
    return served


def _claim(
    db: sqlite3.Connection, queues: list[str], offer: ClaimRequest, now: int, served: ClaimResult
) -> Claim | None:
    while (found := lifecycle.claim_next(db, queues, offer.keeper, offer.token, now)) is not None:
        queue, row = found
        try:
            return rows.claim(row)
        except StoreUnavailable as damage:
            # One damaged row must not hold up the queue behind it.
            end = End(Ending.FAILED_TO_START, now, detail=damage.detail)
            served.moves.append(Transition(row[0], queue, State.QUEUED, State.RUNNING))  # as it then was
            served.moves += dependents.end_unstarted(db, row[0], end)
    return None
