"""What a transaction decides on beside rows of jobs: counts, limits, pauses, the epoch, whether this node drains.

Read once in a transaction, in one statement, after the advisory locks that make it stay true; kept up to date with
what the transaction itself does. Used on the writer's thread, by units that add, move or claim jobs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.db import Db, RowChangedError
from shellrunner.store.postgres.delivery import DeliveryEngine, QueuedJob
from shellrunner.store.postgres.node_config import NodeConfig
from shellrunner.store.postgres.transaction import advisory, tallies
from shellrunner.store.queues import Hold, Line, Pauses, QueueLimit, QueueLimits
from shellrunner.store.transition import Transition, Transitions

_READ: Final = f"""SELECT
    (SELECT json_agg(json_build_array(queue, submitter, waiting, queued, running)) FROM ({tallies.READ})
        AS totals (queue, submitter, waiting, queued, running)),
    (SELECT json_agg(queue) FROM paused),
    (SELECT json_agg(json_build_array(name, max_running, max_queued)) FROM queues),
    (SELECT value FROM meta WHERE key = 'held'),
    (SELECT value FROM meta WHERE key = 'epoch'),
    (SELECT draining FROM hosts WHERE name = ?)"""  # noqa: S608  a constant of this program
_PRIORITIES: Final = "SELECT id, priority FROM jobs WHERE id = ANY(?)"
# So many transactions may add jobs at once while each sees room for this many times its own.
_MARGIN: Final = 64


@dataclass(slots=True)
class Situation:
    """How things are for this transaction; `counts` has the limits and the pauses, too."""

    counts: QueueCounts
    stored_limits: Mapping[str, QueueLimit]
    epoch: int
    draining: bool

    @property
    def pauses(self) -> Pauses:
        """The queues that start no jobs."""
        return self.counts.pauses


def read(db: Db, node: str, limits: QueueLimits) -> Situation:
    """Read the situation."""
    ((totals, paused, queues, held, epoch, draining),) = db.execute(_READ, (node,)).fetchall()
    stored = {name: QueueLimit(*each) for name, *each in queues or ()}
    hold = json.loads(held) if held else None
    pauses = Pauses(frozenset(paused or ()), Hold(hold["reason"], hold["since"]) if hold else None)
    counts = QueueCounts(limits, tallies.undone(totals or ()), pauses, stored)
    return Situation(counts, stored, int(epoch), bool(draining))


class NearLimitError(RowChangedError):
    """So little room is left that nobody else may add jobs meanwhile: the transaction is run again."""


class TransactionState:
    """The situation of the transaction that the writer runs now; implements the engine's `CommitHooks`.

    limits: those of config, replaced when they change. will_claim: set before a batch that may claim jobs.
    """

    def __init__(self, node: NodeConfig, delivery: DeliveryEngine, limits: QueueLimits) -> None:
        self.node, self.delivery, self.limits = node, delivery, limits
        self.will_claim = False
        self._situation: Situation | None = None
        self._transitions: Transitions = []  # of this run
        self._is_exclusive = self._next_is_exclusive = False

    # CommitHooks ------------------------------------------------------------------------------------------------

    def begin(self, transitions: Transitions) -> None:
        """Forget the last run; `transitions` is the list to which the engine adds what this one does."""
        self._situation, self._transitions = None, transitions
        self._is_exclusive, self._next_is_exclusive = self._next_is_exclusive, False

    def unit_done(self, transitions: Transitions) -> None:
        """Follow what a unit of this run has done."""
        if self._situation is not None:
            for transition in transitions:
                self._situation.counts.apply(transition)

    def deliver(self, db: Db, transitions: Transitions) -> None:
        """Offer the jobs that were queued."""
        queued = {each.job_id: each for each in transitions if _is_queued(each)}
        if queued:
            priorities = dict(db.execute(_PRIORITIES, ([*queued],)).fetchall())
            self.delivery.enqueue(
                db,
                [
                    QueuedJob(job_id, Line(each.queue, each.submitter), priorities.get(job_id, 0))
                    for job_id, each in queued.items()
                ],
            )

    def before_commit(self, db: Db, transitions: Transitions) -> None:
        """Write the counts and sizes."""
        tallies.write(db, self.node.name, transitions)

    # For units --------------------------------------------------------------------------------------------------

    @property
    def transitions(self) -> Transitions:
        """What this run has done to jobs so far."""
        return self._transitions

    def situation(self, db: Db) -> Situation:
        """Return the situation, with what this run has done."""
        if self._situation is None:
            if self.will_claim:
                advisory.share(db, advisory.CLAIMS)
            (advisory.lock if self._is_exclusive else advisory.share)(db, advisory.ADMISSION)
            self._situation = self._read(db)
        return self._situation

    def read_again(self, db: Db) -> Situation:
        """Return the situation as it is after further locks were taken."""
        self._situation = self._read(db)
        return self._situation

    def _read(self, db: Db) -> Situation:
        situation = read(db, self.node.name, self.limits)
        for transition in self._transitions:
            situation.counts.apply(transition)
        return situation

    def ensure_room(self, wanted: int, room: int) -> None:
        """Check that there is so much room that others may add jobs at the same time, or that they may not.

        Raises:
            NearLimitError: neither.
        """
        if not self._is_exclusive and room < _MARGIN * wanted:
            self._next_is_exclusive = True
            raise NearLimitError


def _is_queued(transition: Transition) -> bool:
    return transition.after == "queued" and (transition.before != "queued" or transition.previous_queue is not None)
