"""Recording ends of what this node runs: in the next write batch, however long the database is away.

Owned by the store. An end counts as unrecorded from when it is known until its commit was answered: what follows a
failover (`reconciler`) must not take it for forgotten. Must not know keepers.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from shellrunner.clock import Millis
from shellrunner.errors import StoreUnavailable
from shellrunner.model import End, Ending, Volume
from shellrunner.store.db import Db
from shellrunner.store.output import Head
from shellrunner.store.output.location import Recorded, SlotOwner
from shellrunner.store.postgres.engine.group_commit import ChangeItem
from shellrunner.store.postgres.engine.postgres_engine import PostgresEngine
from shellrunner.store.postgres.hosts import late_witness, losing
from shellrunner.store.postgres.hosts.late_witness import RecordedEnd
from shellrunner.store.postgres.node import unsettled
from shellrunner.store.postgres.output_chunks.output_ends import AttemptOutput, OutputEnds, volume_as_sent
from shellrunner.store.postgres.transaction import situation
from shellrunner.store.postgres.transaction.claim_journal import ClaimJournal
from shellrunner.store.transition import CommitListener, Transitions
from shellrunner.store.units import lifecycle

_FORGOTTEN = "the database was replaced after it was claimed, and has forgotten how it ended, if it was started"


class EndWriter:
    """Writes ends, and puts claims back. unrecorded: jobs and claim tokens of ends that are not committed yet."""

    def __init__(
        self,
        engine: PostgresEngine,
        listener: CommitListener,
        journal: ClaimJournal,
        outputs: OutputEnds,
        now: Callable[[], Millis],
    ) -> None:
        """`now`: by the clock of due times."""
        self._engine, self._listener, self._journal, self._outputs = engine, listener, journal, outputs
        self._now = now
        self.unrecorded: set[tuple[int, str]] = set()

    def finish(
        self,
        job_id: int,
        token: str,
        end: End,
        volume: Volume,
        head: Head,
        *,
        owner: SlotOwner | None,
        next_attempt_at: Millis | None,
    ) -> asyncio.Future[bool]:
        """Record the end, once all output is in the database; `owner`: the keeper that ran it, if it is known.

        The future says whether the history has it, be it as what was found of a lost job.
        """
        known: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.unrecorded.add((job_id, token))

        def record(*, may_be_less: bool, on_recorded: Callable[[], None]) -> None:
            def unit(db: Db) -> RecordedEnd:
                stored = volume_as_sent(db, job_id, token, volume) if may_be_less else volume
                values: dict[str, Any] = {"token": token, "end": end, "volume": stored, "head": head}
                transitions = lifecycle.finish(db, job_id, **values, next_attempt_at=next_attempt_at, now=self._now())
                if transitions:
                    return RecordedEnd(is_known=True, transitions=transitions)
                return late_witness.add(db, job_id, **values)

            def committed(recorded: RecordedEnd) -> None:
                self.unrecorded.discard((job_id, token))
                if recorded.is_known:
                    on_recorded()

            self._record(unit, committed, known)

        def failed(error: StoreUnavailable) -> None:
            if not known.done():
                known.set_exception(error)

        output = AttemptOutput(job_id, token, owner, Recorded(volume, head, token), end.ending is Ending.LOST)
        self._outputs.send_first(output, record, failed)
        return known

    def requeue(self, job_id: int, token: str, now: Callable[[], Millis]) -> asyncio.Future[bool]:
        """Put a claim back under which nothing was started; false: the job does not run under it.

        Nothing on this host shows that after a failover: it may have ended, and the history have forgotten that.
        """

        def unit(db: Db) -> RecordedEnd:
            if self._journal.was_claimed_in_another(job_id, token, str(situation.current_era(db))):
                transitions = losing.lose_claim(db, job_id, token, _FORGOTTEN, now())
            else:
                self._journal.release(job_id, token)
                transitions = lifecycle.requeue(db, job_id, token, now())
            was_awaited = not transitions and unsettled.settle(db, token)
            return RecordedEnd(bool(transitions) or was_awaited, transitions)

        known: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._record(unit, lambda _: None, known)
        return known

    def _record(
        self,
        unit: Callable[[Db], RecordedEnd],
        on_commit: Callable[[RecordedEnd], None],
        known: asyncio.Future[bool],
    ) -> None:
        """Run the unit in the next write batch, also if the future is cancelled."""

        def change(db: Db) -> tuple[RecordedEnd, Transitions]:
            recorded = unit(db)
            return recorded, recorded.transitions

        def committed(recorded: RecordedEnd) -> None:
            on_commit(recorded)
            self._listener.committed(recorded.transitions)
            if not known.done():
                known.set_result(recorded.is_known)

        def failed(error: Exception) -> None:
            if not known.done():
                known.set_exception(error)

        try:
            self._engine.writes.put(ChangeItem(change, committed, on_failure=failed))
        except StoreUnavailable as closed:
            failed(closed)
