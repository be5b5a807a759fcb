"""What a transaction decides on beside rows of jobs: counts, limits, pauses, the epoch, whether this node drains.

Read once in a transaction, in one statement, after the advisory locks that make it stay true; kept up to date with
what the transaction itself does. Used on the writer's thread, by units that add, move or claim jobs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

from shellrunner.store.components.queue_counts import QueueCounts
from shellrunner.store.db import Db, RowChangedError
from shellrunner.store.postgres.delivery import DeliveryEngine, QueuedJob
from shellrunner.store.postgres.node_config import NodeConfig
from shellrunner.store.postgres.transaction import tallies
from shellrunner.store.postgres.transaction.claim_journal import ClaimJournal, StartedAttempt
from shellrunner.store.postgres.transaction.waiting_keeper import WaitingKeeper
from shellrunner.store.queues import Hold, Line, Pauses, QueueLimit, QueueLimits
from shellrunner.store.transition import Transition, Transitions

_READ: Final = """SELECT totals, paused, limits, held, epoch, draining, incarnation, server,
    is_other_server, is_held_off FROM read_situation(?, ?, ?)"""
_ERA: Final = """SELECT (SELECT value FROM meta WHERE key = 'epoch'),
    coalesce(current_setting('shellrunner.server', true), '')"""
_PRIORITIES: Final = "SELECT id, priority FROM jobs WHERE id = ANY(?)"
# So many transactions may add jobs at once while each sees room for this many times its own.
_MARGIN: Final = 64


class Era(NamedTuple):
    """Which history this is beside its id: its epoch, and the server that has it. A node follows each change."""

    epoch: int
    server: str

    def __str__(self) -> str:
        return f"{self.epoch} {self.server}"


@dataclass(slots=True)
class Situation:
    """How things are for this transaction; `counts` has the limits and the pauses, too.

    incarnation: of the server that has this node's name. is_other_server: this PostgreSQL has taken over, and no node
    has followed that yet: ids that it has forgotten would be given again. is_held_off: no node may claim yet.
    """

    counts: QueueCounts
    stored_limits: Mapping[str, QueueLimit]
    era: Era | None = None
    draining: bool = False
    incarnation: str | None = None
    is_other_server: bool = False
    is_held_off: bool = False

    @property
    def pauses(self) -> Pauses:
        """The queues that start no jobs."""
        return self.counts.pauses


def read(db: Db, node: str, limits: QueueLimits, *, claims: bool = False, is_exclusive: bool = False) -> Situation:
    """Read the situation, under the locks CLAIMS (shared, if it `claims`) and ADMISSION."""
    (row,) = db.execute(_READ, (node, claims, is_exclusive)).fetchall()
    totals, paused, queues, held, epoch, draining, incarnation, server, is_other_server, is_held_off = row
    stored = {name: QueueLimit(*each) for name, *each in queues or ()}
    hold = json.loads(held) if held else None
    pauses = Pauses(frozenset(paused or ()), Hold(hold["reason"], hold["since"]) if hold else None)
    counts = QueueCounts(limits, tallies.undone(totals or ()), pauses, stored)
    era = Era(int(epoch), server)
    return Situation(counts, stored, era, bool(draining), incarnation, is_other_server and bool(server), is_held_off)


def current_era(db: Db) -> Era:
    """Return the epoch, and the server that this connection is to, whether or not a node has adopted it."""
    ((epoch, server),) = db.execute(_ERA).fetchall()
    return Era(int(epoch), server)


class NotAloneError(RowChangedError):
    """Nobody else may add jobs meanwhile: so little room is left, or ids have to be consecutive."""


class TransactionState:
    """The situation of the transaction that the writer runs now; implements the engine's `CommitHooks`.

    limits: those of config, replaced when they change. waiting: the keepers that wait for a job.
    free: those of them that have none in this run. priorities: of jobs that this run has added. era: the one
    that this node has followed. journal: what it has started. doubtful: tokens of claims that may be committed.
    notify: returns the statement by which others learn at once of what a transaction does, if they have to.
    """

    def __init__(
        self,
        node: NodeConfig,
        delivery: DeliveryEngine,
        limits: QueueLimits,
        journal: ClaimJournal,
        notify: Callable[[Transitions], tuple[str, Sequence[Any]] | None],
    ) -> None:
        self.node, self.delivery, self.limits, self.journal = node, delivery, limits, journal
        self.era: Era | None = None
        self.waiting: Sequence[WaitingKeeper] = ()
        self.doubtful: set[str] = set()
        self._notify = notify
        self._claims_in: Era | None = None
        self.free: list[WaitingKeeper] = []
        self.priorities: dict[int, int] = {}
        self._served: set[str] = (
            set()
        )  # claim tokens of those that have got one in this batch, which may be several runs
        self._situation: Situation | None = None
        self._transitions: Transitions = []  # of this run
        self._is_exclusive = self._next_is_exclusive = False

    def begin_batch(self, waiting: Sequence[WaitingKeeper]) -> None:
        """Follow which keepers wait when a batch begins; no other one is under way."""
        self.waiting = waiting
        self._served.clear()

    # CommitHooks ------------------------------------------------------------------------------------------------

    def begin(self, transitions: Transitions) -> None:
        """Forget the last run; `transitions` is the list to which the engine adds what this one does."""
        self._situation, self._transitions = None, transitions
        self.free = [each for each in self.waiting if each.token not in self._served]
        self.priorities = {}
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
            priorities = self.priorities
            if unknown := [job_id for job_id in queued if job_id not in priorities]:
                priorities = priorities | dict(db.execute(_PRIORITIES, (unknown,)).fetchall())
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

    def committing(self, transitions: Transitions) -> Callable[[], object] | None:
        """Return what notes in the journal what is being claimed, synced before a keeper learns of it."""
        claimed = [(each.job_id, each.owner) for each in transitions if each.owner is not None]
        if not claimed:
            return None
        attempts = [StartedAttempt(job_id, owner.attempt, owner.token) for job_id, owner in claimed]
        return partial(self.journal.claim, attempts, str(self._claims_in))

    def notification(self, transitions: Transitions) -> tuple[str, Sequence[Any]] | None:
        """Return what wakes other nodes for the jobs that were queued."""
        return self._notify(transitions)

    def committed(self, transitions: Transitions) -> None:
        """Note in the journal that what was claimed will be started."""
        self._served.update(each.owner.token for each in transitions if each.owner is not None)
        self.journal.confirm()

    def refused(self, transitions: Transitions) -> None:
        """Note in the journal that nothing was claimed."""
        self.journal.withdraw()

    def unanswered(self, transitions: Transitions) -> None:
        """Note which claims may have been committed, though no keeper is given them."""
        self.doubtful.update(each.owner.token for each in transitions if each.owner is not None)
        self.journal.withdraw()

    # For units --------------------------------------------------------------------------------------------------

    @property
    def transitions(self) -> Transitions:
        """What this run has done to jobs so far."""
        return self._transitions

    def situation(self, db: Db) -> Situation:
        """Return the situation, with what this run has done."""
        if self._situation is None:
            self._situation = self._read(db)
        return self._situation

    def settings_changed(self) -> None:
        """Note that a unit of this run has changed pauses or limits: what comes after it follows them."""
        self._situation = None

    def read_again(self, db: Db) -> Situation:
        """Return the situation as it is after further locks were taken."""
        self._situation = self._read(db)
        return self._situation

    def _read(self, db: Db) -> Situation:
        situation = read(db, self.node.name, self.limits, claims=bool(self.waiting), is_exclusive=self._is_exclusive)
        for transition in self._transitions:
            situation.counts.apply(transition)
        return situation

    def may_claim(self, situation: Situation) -> bool:
        """Return whether this node may claim anything now."""
        self._claims_in = situation.era
        return (
            situation.incarnation == self.node.incarnation
            and situation.era == self.era
            and not (situation.draining or situation.is_other_server or situation.is_held_off)
            and not situation.pauses.held
        )

    def take_keeper(self, db: Db, line: Line) -> WaitingKeeper | None:
        """Return a keeper that waits, if a job of this line may start at once, before any other; else None."""
        if not self.free or not self.node.runs(line.queue):
            return None
        situation = self.situation(db)
        counts = situation.counts
        if not self.may_claim(situation) or counts.is_paused(line.queue):
            return None
        # A line that has a limit is decided on under its lock, in `claims`.
        if counts.has_startable() or counts.is_limited(line):
            return None
        return self.free.pop(0)

    def ensure_room(self, wanted: int, room: int) -> None:
        """Check that there is so much room that others may add jobs at the same time, or that they may not.

        Raises:
            NotAloneError: neither.
        """
        if not self._is_exclusive and room < _MARGIN * wanted:
            self.add_alone()

    def add_alone(self) -> NoReturn:
        """Have the transaction be run again while nobody else adds jobs.

        Raises:
            NotAloneError: always.
        """
        self._next_is_exclusive = True
        raise NotAloneError


def _is_queued(transition: Transition) -> bool:
    return transition.after == "queued"  # from queued to queued: it was edited, and its turn may be another one
