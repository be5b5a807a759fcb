"""What is to be put right when the history is not the one that this node has written: another epoch, another server.

A replica that lagged behind, or a backup, has forgotten claims and ends. What this node's journal has started is not
run again: it is lost. Other nodes do the same, and until they had the time for it, nobody claims anything. Owned by
the store; called with each renewal of the lease. Must not know keepers.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from shellrunner.model import End, Ending
from shellrunner.store.db import Db
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.hosts import losing
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.postgres.node.database_clock import DatabaseClock
from shellrunner.store.postgres.transaction import advisory
from shellrunner.store.postgres.transaction.claim_journal import MAX_RECORDS, ClaimJournal, StartedAttempt
from shellrunner.store.postgres.transaction.situation import Era, TransactionState
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import dependents, lifecycle

_log = logging.getLogger(__name__)

STARTED_HERE: Final = "the database has forgotten that it was started on host {}; how it ended is not known"
_BATCH_SIZE: Final = 500
_UNSTARTED: Final = """SELECT id, attempt, spec FROM jobs WHERE id = ANY(?) AND state IN ('waiting', 'queued')
    ORDER BY id"""
_RUNNING: Final = "SELECT id, attempt, token FROM jobs WHERE id = ANY(?) AND state = 'running'"
_SERVER: Final = "SELECT value FROM meta WHERE key = 'server'"
_SET: Final = "UPDATE meta SET value = ? WHERE key = ?"
_HOLD_OFF: Final = """UPDATE meta SET value = (extract(epoch FROM clock_timestamp()) * 1000 + ?)::bigint::text
    WHERE key = 'claims_after'"""
# Ids that are left out, as some of them may have been given: as many as a standby may lag behind, or a backup.
_SKIP_IDS: Final = """SELECT setval('jobs_id_seq', nextval('jobs_id_seq') + 1000000)"""
_LAST_ID: Final = "SELECT last_value FROM jobs_id_seq"
_RAISE_IDS: Final = "SELECT setval('jobs_id_seq', ?) FROM jobs_id_seq WHERE last_value < ?"


def skip_ids(db: Db) -> None:
    """Let ids continue far above those that the history may have forgotten: nobody gets another's job by its id."""
    db.execute(_SKIP_IDS).fetchall()


class _Refused(NamedTuple):
    """How many attempts are lost, and the transitions of those that were the last."""

    lost: int
    transitions: Transitions


@dataclass(slots=True)
class Reconciler:
    """Follows the era of the history.

    owners, unrecorded: what this node runs, and what has ended here but is not recorded yet.
    """

    engine: PostgresEngine
    state: TransactionState
    journal: ClaimJournal
    clock: DatabaseClock
    listener: CommitListener
    owners: Mapping[int, SlotOwner]
    unrecorded: Collection[tuple[int, str]]
    lease_seconds: float
    look_for_jobs: Callable[[], object]

    async def follow(self, era: Era, server: str) -> None:
        """Put right what must be, if the era is another one, or another server answers; then claims go on.

        Raises:
            StoreUnavailable: it could not be done; the next renewal tries again.
        """
        if era.server != server:
            era = Era(era.epoch, await self.engine.write(lambda db: self._adopt_server(db, server)))
        if era == self.state.era:
            return
        is_first = self.state.era is None
        if not is_first:
            _log.warning("the history is of another epoch, or on another server", extra={"epoch": era.epoch})
        await self._settle_doubtful(era)
        await self._refuse_started()
        self.state.era = era
        self.look_for_jobs()

    async def _settle_doubtful(self, era: Era) -> None:
        """Decide what became of a COMMIT that an earlier server of this node had sent when it was killed.

        That transaction has ended: this server has got the name of the node only after it (`lease`).
        """
        if doubtful := self.journal.doubtful(str(era)):
            await self.engine.write(lambda db: self._settle(db, doubtful))

    def _settle(self, db: Db, doubtful: Sequence[StartedAttempt]) -> None:
        claimed = set(db.execute(_RUNNING, ([each.job_id for each in doubtful],)).fetchall())
        for each in doubtful:
            self.journal.settle(each, is_claimed=each in claimed)

    def _adopt_server(self, db: Db, server: str) -> str:
        """Write that this server has the history now; nobody claims for the time of a lease."""
        advisory.lock(db, advisory.CLAIMS)
        ((before,),) = db.execute(_SERVER).fetchall()
        if before != server:
            db.execute(_SET, (server, "server"))
            if before:
                skip_ids(db)
                db.execute(_HOLD_OFF, (self.lease_seconds * 1000,))
        return server

    async def _refuse_started(self) -> None:
        """End what was started here and is not known as that; nearly always there is nothing, so first it is read."""
        job_ids = self.journal.job_ids
        if not job_ids:
            return
        last_id, unstarted = await self.engine.read(lambda db: self._read(db, job_ids))
        if last_id < job_ids[-1]:
            await self.engine.write(lambda db: self._raise_ids(db, job_ids[-1]))
        lost = 0
        for start in range(0, len(unstarted), _BATCH_SIZE):
            refuse = partial(self._refuse, job_ids=unstarted[start : start + _BATCH_SIZE])
            lost += (await self.engine.change(refuse, self._refused)).lost
        lost += len(await self.engine.change(self._lose_forgotten, self.listener.committed))
        if lost:
            _log.error("the database had forgotten what was started here: jobs are lost", extra={"jobs": lost})

    def _read(self, db: Db, job_ids: list[int]) -> tuple[int, list[int]]:
        """Return the last id that was given, and which of these jobs were started here, but not by the history."""
        ((last_id,),) = db.execute(_LAST_ID).fetchall()
        found = db.execute(_UNSTARTED, (job_ids,)).fetchall()
        return last_id, [job_id for job_id, attempt, _ in found if self.journal.has_started(job_id, attempt)]

    def _raise_ids(self, db: Db, last: int) -> None:
        """Let ids continue above this one, while nobody adds jobs."""
        advisory.lock(db, advisory.ADMISSION)
        db.execute(_RAISE_IDS, (last, last)).fetchall()

    def _refused(self, refused: "_Refused") -> None:
        self.listener.committed(refused.transitions)

    def _refuse(self, db: Db, job_ids: list[int]) -> "tuple[_Refused, Transitions]":
        """End those attempts of these jobs that are still not started by the history."""
        transitions: Transitions = []
        lost = 0
        end = End(Ending.LOST, self.clock.now(), detail=STARTED_HERE.format(self.state.node.name))
        for job_id, attempt, spec in db.execute(f"{_UNSTARTED} FOR UPDATE", (job_ids,)).fetchall():
            if not self.journal.has_started(job_id, attempt):
                continue
            lost += 1
            if losing.retry_at(spec, attempt, end) is None:
                transitions += dependents.end_unstarted(db, job_id, end)
            else:
                lifecycle.add_lost_attempt(db, job_id, attempt, end)
            owner = self.owners.get(job_id)
            if owner is not None and self.journal.has_started(job_id, attempt, owner.token):  # it may still run
                unsettled.add_forgotten(db, job_id, owner, self.state.node.name)
        return _Refused(lost, transitions), transitions

    def _lose_forgotten(self, db: Db) -> tuple[Transitions, Transitions]:
        """End jobs that run here by the history, though this node knows that they have ended."""
        detail = f"the database has forgotten how it ended on host {self.state.node.name}"
        transitions = losing.lose(
            db, self.state.node.name, detail, self.clock.now(), MAX_RECORDS, only=self._has_ended
        )
        return transitions, transitions

    def _has_ended(self, job_id: int, attempt: int, token: str) -> bool:
        owner = self.owners.get(job_id)
        is_known = (owner is not None and owner.token == token) or (job_id, token) in self.unrecorded
        return self.journal.has_started(job_id, attempt, token) and not is_known
