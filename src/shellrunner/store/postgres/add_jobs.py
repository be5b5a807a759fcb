"""Adding and editing jobs, as items of a write batch: Idempotency-Keys, room in the queues, sealed secrets, rows.

Used by the store. Several nodes may do so at once: what they decide together is read under advisory locks
(`situation`), and an Idempotency-Key that another node is adding is waited for by the key's own index. Must not know
connections or transactions.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from shellrunner.clock import Millis
from shellrunner.errors import StoreUnavailable
from shellrunner.model import Claim, Job
from shellrunner.store.components.queue_counts import Places, QueueCounts
from shellrunner.store.db import Db
from shellrunner.store.output.location import SlotOwner
from shellrunner.store.postgres.engine.group_commit import ChangeItem
from shellrunner.store.postgres.transaction.situation import TransactionState
from shellrunner.store.postgres.transaction.waiting_keeper import WaitingKeeper
from shellrunner.store.queues import Line
from shellrunner.store.transition import Transitions
from shellrunner.store.units import admission, editing, idempotency_keys
from shellrunner.store.units.admission import NewJob
from shellrunner.store.values import IdempotencyKey, JobEdit

_ADD_KEY: Final = "INSERT INTO job_keys (name, key) VALUES (?, ?)"
_OTHER_SERVER: Final = "another PostgreSQL server has taken over; jobs are accepted once this node has followed that"
_NOTHING: Final = Places()


class AddJobsItem(ChangeItem):
    """Jobs that are to be added, all or none. Its `value`: as accepted, or as they are now if their key is known.

    paired: the keepers that got one of the jobs in the same commit, and their claims.
    """

    __slots__ = ("_jobs", "_key", "_now", "_state", "paired")

    def __init__(
        self,
        jobs: Sequence[NewJob],
        key: IdempotencyKey | None,
        state: TransactionState,
        on_commit: Callable[["AddJobsItem"], None],
        now: Callable[[], Millis],
    ) -> None:
        super().__init__(self._add, lambda _: on_commit(self), unique=() if key is None else (key.identity, key.key))
        self._jobs, self._key, self._state, self._now = jobs, key, state, now
        self.paired: list[tuple[WaitingKeeper, Claim]] = []

    def _add(self, db: Db) -> tuple[list[Job], Transitions]:
        self.paired = []
        if self._key is not None:
            known = idempotency_keys.find(db, self._key, self._now(), len(self._jobs))
            if known:
                return known, []
        if self._state.situation(db).is_other_server:
            raise StoreUnavailable(_OTHER_SERVER)
        keepers = self._take_keepers(db)
        try:
            self._check_room(self._state.situation(db).counts, keepers)
            owners = [None if keeper is None else SlotOwner(keeper.keeper, keeper.token) for keeper in keepers]
            added, transitions = admission.add(db, list(zip(self._jobs, owners, strict=True)))
        except BaseException:
            self._state.free[:0] = [keeper for keeper in keepers if keeper is not None]
            raise
        # Not before: a unit that refuses has written nothing.
        if keys := [(new.key.name, new.key.secret) for new in self._jobs if new.key is not None]:
            db.executemany(_ADD_KEY, keys)
        added = self._pair(added, keepers)
        if self._key is not None:
            if added[-1].id - added[0].id != len(added) - 1:  # the key stands for consecutive ids
                self._state.add_alone()
            # Where another node has added the key meanwhile, this changes no row, and the unit is run again.
            idempotency_keys.add(db, self._key, added[0].id, added[0].created, self._now())
        return added, transitions

    def _pair(self, added: Sequence[Job], keepers: Sequence[WaitingKeeper | None]) -> list[Job]:
        """Follow which jobs were claimed at once, and return all as they are."""
        jobs = []
        for new, job, keeper in zip(self._jobs, added, keepers, strict=True):
            if keeper is None:
                self._state.priorities[job.id] = new.spec.priority
                jobs.append(job)
            else:
                self.paired.append((keeper, new.claim(job.id, SlotOwner(keeper.keeper, keeper.token))))
                jobs.append(replace(job, host=self._state.node.name))
        return jobs

    def _take_keepers(self, db: Db) -> list[WaitingKeeper | None]:
        """Return the keeper of each job that starts at once: of these jobs, those with the highest priority."""
        keepers: list[WaitingKeeper | None] = [None] * len(self._jobs)
        for index, new in sorted(enumerate(self._jobs), key=lambda each: -each[1].spec.priority):
            keepers[index] = self._take_keeper(db, new)
        return keepers

    def _take_keeper(self, db: Db, new: NewJob) -> WaitingKeeper | None:
        # One with retries takes a place in its queue: between its attempts it waits, and nothing can be refused then.
        if not new.is_startable or new.spec.retries is not None:
            return None
        return self._state.take_keeper(db, new.line)

    def _check_room(self, counts: QueueCounts, keepers: Sequence[WaitingKeeper | None]) -> None:
        lines = [new.line for new, keeper in zip(self._jobs, keepers, strict=True) if keeper is None]
        if not lines:
            return
        self._state.ensure_room(len(lines), min(map(counts.room, set(lines))))
        refusal = counts.refusal(Places(lines), _NOTHING)
        if refusal is not None:
            raise refusal


class EditJobItem(ChangeItem):
    """A job that is to be changed before it starts. Its `value`: the job as it is then."""

    __slots__ = ("_state",)

    def __init__(
        self,
        edit: JobEdit,
        state: TransactionState,
        on_commit: Callable[["EditJobItem"], None],
        now: Callable[[], Millis],
    ) -> None:
        super().__init__(lambda db: self._edit(db, edit, now()), lambda _: on_commit(self))
        self._state = state

    def _edit(self, db: Db, edit: JobEdit, now: Millis) -> tuple[Job, Transitions]:
        def check_move(queue: str) -> None:
            counts = self._state.situation(db).counts
            self._state.ensure_room(1, counts.room(Line(queue, None)))
            refusal = counts.queue_refusal(queue, 1, _NOTHING)
            if refusal is not None:
                raise refusal

        return editing.edit(db, edit, now, check_move)
