"""Choosing jobs for claims: the job that each offer gets, written in the same commit.

Units for the writer: the SQL of claims. `sqlite.claims` makes the offers, from the requests of `claim_requests`. Must
not know who waits, or how many jobs a queue may run.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from shellrunner.clock import Millis
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, End, Ending, State
from shellrunner.store.columns import ClaimRow, columns
from shellrunner.store.db import Db
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.rows import to_claim
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import dependents

# ruff: noqa: S608  every statement here is put together from constants of this program

# The order of claims: the highest priority first, then the oldest.
HEAD: Final = """SELECT priority, id FROM jobs INDEXED BY jobs_queued WHERE state = 'queued' AND queue = ?
    ORDER BY priority DESC, id LIMIT 1"""
CLAIM: Final = f"""UPDATE jobs SET state = 'running', keeper = ?, token = ?, claimed = ?
    WHERE id = ? AND state = 'queued' RETURNING {columns(ClaimRow)}"""


class Offer(Protocol):
    """A keeper that can run one job, under this claim token."""

    @property
    def keeper(self) -> int:
        """The keeper's number."""

    @property
    def token(self) -> str:
        """The claim token."""


class ClaimResult(NamedTuple):
    """The claims for the first of the offers, in their order, and all that was done to jobs."""

    claims: list[Claim]
    transitions: Transitions


def choose(db: Db, offers: Sequence[Offer], capacity: Mapping[str, int], now: Millis) -> ClaimResult:
    """Claim a job for each offer, as long as there are any; `capacity`: how many may start, by queue."""
    left = dict(capacity)
    result = ClaimResult([], [])
    for offer in offers:
        claim = _claim_next(db, [queue for queue, number in left.items() if number > 0], offer, now, result)
        if claim is None:
            break
        left[claim.spec.queue] -= 1
        result.claims.append(claim)
    return result


def _claim_next(db: Db, queues: list[str], offer: Offer, now: Millis, result: ClaimResult) -> Claim | None:
    """Claim the first job of these queues; None if they are empty."""
    while (row := _take_head(db, queues, offer, now)) is not None:
        owner = SlotOwner(offer.keeper, offer.token, row.attempt)
        result.transitions.append(Transition(row.id, row.queue, State.QUEUED, State.RUNNING, owner=owner))
        try:
            return to_claim(row)
        except StoreUnavailable as damage:
            # One damaged row must not hold up the queue behind it.
            end = End(Ending.FAILED_TO_START, now, detail=damage.detail)
            result.transitions.extend(dependents.end_unstarted(db, row.id, end))
    return None


def _take_head(db: Db, queues: list[str], offer: Offer, now: Millis) -> ClaimRow | None:
    while heads := [head for queue in queues if (head := db.execute(HEAD, (queue,)).fetchone()) is not None]:
        _, first = min(heads, key=lambda head: (-head[0], head[1]))
        rows = db.execute(CLAIM, (offer.keeper, offer.token, now, first)).fetchall()
        if rows:  # else another writer has claimed it: look again
            return ClaimRow._make(rows[0])
    return None
