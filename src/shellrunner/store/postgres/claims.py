"""Claims: the keepers of this node are served at the end of each write batch, in its commit.

Owned by the store. What SQLite decides with counts in memory, is decided here in the transaction (`situation`): which
lines may start how many jobs. Which jobs of them, the delivery engine offers, and the guard of the claim's UPDATE
decides. Must not know keepers as processes.

    batch     add job 6                           running at once: nothing is queued before it, and a keeper waits
              add job 7, finish job 3, …          the rows, and what the delivery engine offers from now on
    choose    advisory lock CLAIMS, situation     nothing is paused, limits of queues that have one
              dequeue                             offers: 7, 5
              UPDATE … WHERE state = 'queued'     claimed: 5 (7 was cancelled a moment ago)
              settle                              the engine forgets both
    COMMIT    then the claims are delivered; a commit that is in doubt is settled by `hosts`
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from shellrunner.clock import Millis
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, End, Ending, State, Volume, next_attempt_at
from shellrunner.store.columns import ClaimRow, SecretsRow, columns
from shellrunner.store.components.batch_queue import BatchQueue, WorkItem
from shellrunner.store.db import Db
from shellrunner.store.output import Head
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.postgres.delivery import Delivered
from shellrunner.store.postgres.engine.group_commit import ChangeItem
from shellrunner.store.postgres.hosts.reconciler import STARTED_HERE
from shellrunner.store.postgres.node.claim_queue import ClaimQueue
from shellrunner.store.postgres.secrets_reading import to_claim_with_secrets
from shellrunner.store.postgres.transaction import advisory
from shellrunner.store.postgres.transaction.situation import Situation, TransactionState
from shellrunner.store.postgres.transaction.waiting_keeper import WaitingKeeper
from shellrunner.store.queues import ALL_QUEUES, Capacity, Line
from shellrunner.store.transition import CommitListener, Transition, Transitions
from shellrunner.store.units import dependents, lifecycle

# ruff: noqa: S608  every statement here is put together from constants of this program

_log = logging.getLogger(__name__)

_RETRY_DELAY: Final = 0.5  # seconds, after a commit that failed
_MAX_REFUSED: Final = 10  # offers that the claim refuses, before the engine looks for more of them
# The state is a parameter, so that no plan reads all that is queued by an index of such jobs: it may be made while
# there are none.
_CLAIM: Final = f"""UPDATE jobs SET state = 'running', keeper = offer.keeper, token = offer.token, claimed = ?,
    host = ? FROM unnest(?::bigint[], ?::bigint[], ?::text[], ?::bigint[]) AS offer (job, keeper, token, offered)
    WHERE jobs.id = offer.job AND jobs.state = ?
    AND jobs.priority = coalesce(offer.offered, jobs.priority)
    AND (jobs.queue, coalesce(jobs.submitter, '')) IN (SELECT * FROM unnest(?::text[], ?::text[]))
    RETURNING {columns(ClaimRow, SecretsRow).replace(" keeper", " jobs.keeper").replace(" token", " jobs.token")}"""

_RUNNING_UNDER: Final = """SELECT id, attempt, token FROM jobs WHERE state = 'running' AND host = ? AND token = ANY(?)
    ORDER BY id FOR UPDATE"""


class NodeClaims:
    """Serves the keepers that wait; the planner of the write batches."""

    def __init__(
        self,
        waiting: ClaimQueue,
        state: TransactionState,
        listener: CommitListener,
        writes: BatchQueue[Any],
        now: Callable[[], Millis],
    ) -> None:
        self._waiting, self._state, self._listener, self._writes, self._now = waiting, state, listener, writes, now
        self.delivered = 0  # claims that were given to keepers, since the start

    def plan(self, batch: Sequence[WorkItem]) -> WorkItem | None:
        """Return the item that chooses jobs for the keepers that wait, if there may be any."""
        waiting = self._waiting.waiting()
        self._state.begin_batch(waiting)
        doubtful = frozenset(self._state.doubtful)
        if batch and not waiting:  # what it queues, the next keeper that waits looks for
            self._waiting.has_backlog = True
        if not doubtful and (not waiting or not (batch or self._waiting.has_backlog)):
            return None
        looks = self._waiting.looks
        item = ChangeItem(
            partial(self._choose, doubtful=doubtful),
            on_failure=self._retry,
            follows_delivery=True,
        )
        item.on_commit = lambda outcome: self._chosen(item, waiting, (doubtful, looks), outcome)
        return item

    # On the writer's thread -------------------------------------------------------------------------------------

    def _choose(self, db: Db, doubtful: frozenset[str]) -> tuple[tuple[list[Claim], bool], Transitions]:
        """Return the claims for keepers that have none, and whether there may be more jobs; and all that was done."""
        if doubtful:
            # The jobs that are put back are delivered with this commit, and claimed in the next batch.
            return ([], True), self._put_back_doubtful(db, doubtful)
        if not self._state.free or not (
            self._waiting.has_backlog or any(each.after is State.QUEUED for each in self._state.transitions)
        ):
            return ([], self._waiting.has_backlog), []
        return _Choice(db, self._state, self._now()).make()

    def _put_back_doubtful(self, db: Db, tokens: frozenset[str]) -> Transitions:
        """Requeue what was claimed in a commit that was not answered: no keeper was given it."""
        advisory.lock_node(db, self._state.node.name)  # the server may still be at that commit
        transitions: Transitions = []
        paired = {each.job_id for each in self._state.transitions if each.owner is not None}
        for job_id, attempt, token in db.execute(_RUNNING_UNDER, (self._state.node.name, [*tokens])).fetchall():
            # What was claimed under the same token since, in this batch or before, is another keeper's affair.
            if job_id not in paired and not self._state.journal.has_started(job_id, attempt, token):
                transitions += lifecycle.requeue(db, job_id, token, self._now())
        return transitions

    # On the event loop ------------------------------------------------------------------------------------------

    def _chosen(
        self,
        item: ChangeItem,
        waiting: Sequence[WaitingKeeper],
        before: tuple[frozenset[str], int],
        outcome: tuple[list[Claim], bool],
    ) -> None:
        settled, looks = before
        self._state.doubtful -= settled
        if settled or self._state.doubtful:
            asyncio.get_running_loop().call_soon(self._writes.wake)
        claims, has_backlog = outcome
        self._waiting.looked(looks, has_backlog=has_backlog)
        self._listener.committed(item.transitions)
        by_token = {each.token: each for each in waiting}
        for claim in claims:
            self.deliver(by_token[claim.token], claim)

    def deliver(self, waiting: WaitingKeeper, claim: Claim) -> None:
        """Give a keeper the job that was claimed for it; if nobody waits any more, put the job back."""
        self._waiting.remove(waiting)
        if waiting.future.done():
            self.put_back(claim)
        else:
            waiting.future.set_result(claim)
            self.delivered += 1

    def put_back(self, claim: Claim) -> None:
        """Requeue a claim whose caller was cancelled, however long the database is away.

        What is left when the history is closed, the next reconciliation judges.
        """

        def requeue(db: Db) -> tuple[Transitions, Transitions]:
            self._state.journal.release(claim.job_id, claim.token)
            transitions = lifecycle.requeue(db, claim.job_id, claim.token, self._now())
            return transitions, transitions

        def failed(error: Exception) -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(_RETRY_DELAY, self.put_back, claim)
            if not isinstance(error, StoreUnavailable):
                loop.call_exception_handler({"message": "putting a claim back failed", "exception": error})

        with suppress(StoreUnavailable):
            self._writes.put(ChangeItem(requeue, self._listener.committed, on_failure=failed))

    def _retry(self, error: Exception) -> None:
        self._waiting.has_backlog = True
        loop = asyncio.get_running_loop()
        loop.call_later(_RETRY_DELAY, self._writes.wake)
        if not isinstance(error, StoreUnavailable):  # a bug, which is reported; the keepers wait on
            loop.call_exception_handler({"message": "choosing jobs failed", "exception": error})


class _Choice:
    """Choosing jobs in one transaction, for the keepers that have none in it."""

    def __init__(self, db: Db, state: TransactionState, now: Millis) -> None:
        self._db, self._state, self._now = db, state, now
        self._node = state.node
        self._claims: list[Claim] = []
        self._transitions: Transitions = []

    def make(self) -> tuple[tuple[list[Claim], bool], Transitions]:
        situation = self._state.situation(self._db)
        if not self._state.may_claim(situation) or ALL_QUEUES in situation.pauses.queues:
            return ([], True), []
        lines = self._lines(situation)
        limited = [line for line in lines if situation.counts.is_limited(line)]
        if limited:
            situation = self._lock(situation, limited)
            lines = self._lines(situation)
        capacity = situation.counts.capacity()
        queued = sum(situation.counts.queued(line) for line in lines)
        found = self._serve(lines, capacity, at_once=not limited) if queued else 0
        return (self._claims, found < queued or not self._state.free), self._transitions

    def _lines(self, situation: Situation) -> list[Line]:
        """Return the lines of this node in which jobs are queued."""
        paused = situation.pauses.queues
        lines = [
            line for line in situation.counts.lines() if self._node.runs(line.queue) and line.queue not in paused
        ]
        return sorted(lines, key=lambda line: (line.queue, line.submitter or ""))

    def _lock(self, situation: Situation, limited: list[Line]) -> Situation:
        """Have nobody else claim jobs of lines that have a limit, so that how many of them run is exact."""
        counts = situation.counts
        advisory.lock_lines(
            self._db,
            {line.queue for line in limited if counts.limit(line.queue).max_running is not None},
            {line.submitter or "" for line in limited if not counts.runs_any_number(line.submitter)},
        )
        return self._state.read_again(self._db)

    def _serve(self, lines: list[Line], capacity: Capacity, *, at_once: bool) -> int:
        """Claim jobs until all keepers have one, or no more are offered; return how many were found.

        How many are queued says nothing about that: one that was queued since may have been claimed in place of them.
        """
        found = refused = 0
        while self._state.free:
            open_lines = [line for line in lines if capacity.allows(line)]
            wanted = len(self._state.free) if at_once else 1
            offers = self._state.delivery.dequeue(self._db, open_lines, wanted) if open_lines else ()
            claimed = self._claim(offers, open_lines) if offers else []
            found += len(claimed)
            for line in claimed:
                capacity.take(line)
            if len(offers) < wanted:
                break
            refused += len(offers) - len(claimed)
            if refused >= _MAX_REFUSED:  # one by one, thousands that were cancelled would take minutes
                self._state.delivery.forget_unclaimable(self._db, open_lines)
                refused = 0
        return found

    def _claim(self, offers: Sequence[Delivered], open_lines: Sequence[Line]) -> list[Line]:
        """Claim those of the offered jobs that are queued in one of these lines; return their lines.

        A job may be offered as it was before it was edited: with another priority, or in a queue that it has left.
        """
        offered = {(offer.job_id, offer.priority): None for offer in offers}  # an engine may offer one twice
        jobs = [job_id for job_id, _ in offered]
        keepers = self._state.free[: len(jobs)]
        values = (
            self._now,
            self._node.name,
            jobs,
            [each.keeper for each in keepers],
            [each.token for each in keepers],
            [priority for _, priority in offered],
            State.QUEUED,
            [line.queue for line in open_lines],
            [line.submitter or "" for line in open_lines],
        )
        rows = {row[0]: row for row in self._db.execute(_CLAIM, values).fetchall()}
        self._state.delivery.settle(self._db, offers)
        lines = []
        for job_id in dict.fromkeys(jobs):  # in the order of the offers
            if job_id in rows:
                *row, stored = rows[job_id]
                lines += self._take(ClaimRow._make(row), stored)
        return lines

    def _take(self, row: ClaimRow, stored: str | None) -> list[Line]:
        line, owner = Line(row.queue, row.submitter), SlotOwner(row.keeper, row.token, row.attempt)
        self._transitions.append(Transition(row.id, *line, State.QUEUED, State.RUNNING, owner=owner))
        try:
            claim = to_claim_with_secrets(self._db, row, stored)
        except StoreUnavailable as damage:
            # One damaged row must not hold up the queue behind it. A command never starts with made-up values.
            end = End(Ending.FAILED_TO_START, self._now, detail=damage.detail)
            self._transitions.extend(dependents.end_unstarted(self._db, row.id, end))
            return []
        if self._state.journal.has_started(row.id, row.attempt):
            end = End(Ending.LOST, self._now, detail=STARTED_HERE.format(self._node.name))
            due = next_attempt_at(claim.spec, row.attempt, end, self._now)
            self._transitions += lifecycle.finish(
                self._db, row.id, row.token, end=end, volume=Volume(), head=Head(), next_attempt_at=due
            )
            return []
        self._claims.append(claim)
        self._state.free = [each for each in self._state.free if each.token != claim.token]
        return [line]
