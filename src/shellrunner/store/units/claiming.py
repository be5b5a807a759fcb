"""Choosing jobs for claims: the job that each offer gets, written in the same commit.

Units for the writer: the SQL of claims. `sqlite.claims` makes the offers, from the requests of `claim_requests`. Must
not know who waits, or how many jobs a queue or a submitter may run.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from shellrunner.clock import Millis
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, End, Ending, State
from shellrunner.store.columns import ClaimRow, SecretsRow, columns
from shellrunner.store.db import Db
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.queues import Capacity, Line
from shellrunner.store.rows import to_claim
from shellrunner.store.transition import Transition, Transitions
from shellrunner.store.units import dependents

# ruff: noqa: S608  every statement here is put together from constants of this program

# The order of claims: the highest priority first, then the oldest. Each line is asked for its first job, so that the
# jobs of a submitter that may run no more are not read, however many they are.
HEAD: Final = """SELECT priority, id FROM jobs INDEXED BY jobs_queued
    WHERE state = 'queued' AND queue = ? AND submitter IS ? ORDER BY priority DESC, id LIMIT 1"""
CLAIM: Final = f"""UPDATE jobs SET state = 'running', keeper = ?, token = ?, claimed = ?
    WHERE id = ? AND state = 'queued' RETURNING {columns(ClaimRow, SecretsRow)}"""


class Offer(Protocol):
    """A keeper that can run one job, under this claim token."""

    @property
    def keeper(self) -> int:
        """The keeper's number."""

    @property
    def token(self) -> str:
        """The claim token."""


class Unsealer(Protocol):
    """Reads the secrets of a job."""

    def __call__(self, job_id: int, stored: str, /) -> Mapping[str, Any]:
        """Return the values.

        Raises:
            StoreUnavailable: they can never be read again.
            OSError: they cannot be read now, so that the whole batch of claims has to be repeated.
        """


class ClaimResult(NamedTuple):
    """The claims for the first of the offers, in their order, and all that was done to jobs."""

    claims: list[Claim]
    transitions: Transitions


def choose(
    db: Db, offers: Sequence[Offer], capacity: Capacity, lines: Iterable[Line], now: Millis, *, unseal: Unsealer
) -> ClaimResult:
    """Claim a job for each offer, as long as there are any in these lines; `capacity`: how many may start."""
    chooser = _Chooser(db, capacity.copy(), lines, now, unseal)
    for offer in offers:
        claim = chooser.claim_next(offer)
        if claim is None:
            break
        chooser.result.claims.append(claim)
    return chooser.result


class _Head(NamedTuple):
    """The first job of a line; heads compare as their jobs are claimed."""

    negated_priority: int
    job_id: int


class _Chooser:
    """The heads of the lines, each read again after it was taken."""

    def __init__(self, db: Db, capacity: Capacity, lines: Iterable[Line], now: Millis, unseal: Unsealer) -> None:
        self.result = ClaimResult([], [])
        self._db, self._capacity, self._now, self._unseal = db, capacity, now, unseal
        self._unread = {line for line in lines if capacity.allows(line)}
        self._heads: dict[Line, _Head] = {}

    def claim_next(self, offer: Offer) -> Claim | None:
        """Claim the first job of all lines that may start one; None if there is none."""
        while (head := self._take_head(offer)) is not None:
            row, stored = head
            line, owner = Line(row.queue, row.submitter), SlotOwner(offer.keeper, offer.token, row.attempt)
            self.result.transitions.append(Transition(row.id, *line, State.QUEUED, State.RUNNING, owner=owner))
            try:
                claim = _to_claim(row, stored, self._unseal)
            except StoreUnavailable as damage:
                # One damaged row must not hold up the queue behind it. A command never starts with made-up values.
                end = End(Ending.FAILED_TO_START, self._now, detail=damage.detail)
                self.result.transitions.extend(dependents.end_unstarted(self._db, row.id, end))
                continue
            self._capacity.take(line)
            return claim
        return None

    def _take_head(self, offer: Offer) -> tuple[ClaimRow, str | None] | None:
        while startable := self._startable():
            head, line = min(startable, key=lambda each: each[0])
            values = (offer.keeper, offer.token, self._now, head.job_id)
            rows = self._db.execute(CLAIM, values).fetchall()
            self._unread.add(line)
            if rows:  # else another writer has claimed it: look again
                *row, stored = rows[0]
                return ClaimRow._make(row), stored
        return None

    def _startable(self) -> list[tuple[_Head, Line]]:
        for line in self._unread:
            row = self._db.execute(HEAD, line).fetchone()
            if row is None:
                self._heads.pop(line, None)
            else:
                self._heads[line] = _Head(-row[0], row[1])
        self._unread.clear()
        return [(head, line) for line, head in self._heads.items() if self._capacity.allows(line)]


def _to_claim(row: ClaimRow, stored: str | None, unseal: Unsealer) -> Claim:
    """Return the claim with its secrets.

    Raises:
        StoreUnavailable: the row is damaged, or its secrets cannot be read.
    """
    if stored is not None:
        return to_claim(row, unseal(row.id, stored))
    claim = to_claim(row)
    if claim.spec.env or claim.spec.has_text():  # names without values
        raise StoreUnavailable(f"the row of job {row.id} in the history lacks the values that it was submitted with")
    return claim
