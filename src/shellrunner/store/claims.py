"""The standing claim: keepers that wait for a job, served by each write batch, in its commit.

Owned by the store. Knows who waits and whether there may be something queued; must not know keepers or processes.
While certainly nothing is queued, a job that is added is claimed by being written as running: one statement less.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, End, Ending
from shellrunner.store import changes, rows
from shellrunner.store.lane import Asked

_AGAIN: Final = 0.5  # seconds until claiming is tried again after a commit that failed


@dataclass(eq=False, slots=True)
class Offer:
    """A keeper that would take a job under this token."""

    keeper: int
    token: str
    claim: asyncio.Future[Claim] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


Served = list[tuple[Offer, Claim]]


class Adding(Asked):
    """A job that is being added, and the offer that has it at once, if one does."""

    __slots__ = ("accepted", "offer")

    def __init__(self, accepted: changes.Accepted, after: Callable[["Adding"], None]) -> None:
        """`after` hears of it once it is committed; its `value` is the id."""
        super().__init__(self._add, lambda _: after(self))
        self.accepted = accepted
        self.offer: Offer | None = None

    def _add(self, db: sqlite3.Connection) -> int:
        return changes.add(db, self.accepted, (self.offer.keeper, self.offer.token) if self.offer else None)


class Claims:
    """The offers that wait, in the order in which they were made."""

    def __init__(
        self, wake: Callable[[], None], claimed: Callable[[Claim], None], abandoned: Callable[[Claim], None]
    ) -> None:
        """`wake` asks for a write batch now; `claimed` hears of each claim that was committed, and `abandoned`
        of one whose waiter had gone meanwhile."""
        self._wake = wake
        self._claimed = claimed
        self._abandoned = abandoned
        self._offers: dict[Offer, None] = {}
        # Never false while something is queued; true too often only costs a look.
        self._something_queued = True

    def offer(self, keeper: int, token: str) -> Offer:
        """Let a keeper wait for a job."""
        offer = Offer(keeper, token)
        self._offers[offer] = None
        if self._something_queued:
            self._wake()
        return offer

    def withdraw(self, offer: Offer) -> None:
        """It waits no longer."""
        self._offers.pop(offer, None)

    def close(self) -> None:
        """Nobody is served any more; who still waits is told so."""
        for offer in self._offers:
            if not offer.claim.done():
                offer.claim.set_exception(StoreUnavailable("the history is closed"))
        self._offers.clear()

    def standing(self, batch: Sequence[Asked]) -> Asked | None:
        """Let the keepers that wait have what `batch` adds; return what ends it: claims, if something is queued."""
        offers = [offer for offer in self._offers if not offer.claim.done()]
        adding = [asked for asked in batch if isinstance(asked, Adding)]
        put_back = any(asked.queues for asked in batch)
        if not offers:
            self._something_queued = self._something_queued or put_back or bool(adding)
            return None
        if self._something_queued or put_back:
            self._something_queued = True
            return self._claiming(offers)
        adding.sort(key=lambda add: -add.accepted.priority)  # stable: of one priority, the first asked is first
        for add, offer in zip(adding, offers, strict=False):
            add.offer = offer
        self._something_queued = len(adding) > len(offers)
        return None

    def _claiming(self, offers: list[Offer]) -> Asked:
        asked = Asked(lambda db: _serve(db, offers), lambda served: self._tell(served, len(offers)))
        asked.future.add_done_callback(self._failed)
        return asked

    def _tell(self, served: Served, asked: int) -> None:
        self._something_queued = len(served) == asked
        for offer, claim in served:
            self.tell(offer, claim)

    def tell(self, offer: Offer, claim: Claim) -> None:
        """The claim was committed for this offer."""
        self._offers.pop(offer, None)
        self._claimed(claim)
        if offer.claim.done():
            self._abandoned(claim)
        else:
            offer.claim.set_result(claim)

    def _failed(self, future: asyncio.Future[Served]) -> None:
        error = future.exception()
        if error is None:
            return
        asyncio.get_running_loop().call_later(_AGAIN, self._wake)
        if not isinstance(error, StoreUnavailable):
            raise error  # a bug: the loop reports it, and the offers wait on


def _serve(db: sqlite3.Connection, offers: list[Offer]) -> Served:
    served: Served = []
    now = time.time_ns() // 1_000_000
    for offer in offers:
        claim = _claim(db, offer, now)
        if claim is None:
            break
        served.append((offer, claim))
    return served


def _claim(db: sqlite3.Connection, offer: Offer, now: int) -> Claim | None:
    while (row := changes.claim_next(db, offer.keeper, offer.token, now)) is not None:
        try:
            return rows.claim(row)
        except StoreUnavailable as damage:
            # One damaged row must not hold up the queue behind it.
            changes.end_unstarted(db, row[0], End(Ending.FAILED_TO_START, now, detail=damage.detail))
    return None
