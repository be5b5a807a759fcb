"""Deleting and cancelling all jobs that a filter selects: many small commits, between which others are served.

Owned by the store, which promises what `store.History` says. Must not know who asks, or how a back end commits.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol, TypeVar

from shellrunner.clock import Millis, now_ms
from shellrunner.model import State
from shellrunner.model.filters import Filters
from shellrunner.store.db import UnitOfWork
from shellrunner.store.pagination import Position
from shellrunner.store.query import search, selection
from shellrunner.store.query.walk import PlanText
from shellrunner.store.transition import Transitions
from shellrunner.store.units import bulk_cancel, bulk_delete
from shellrunner.store.values import DeleteCount

_UNSTARTED: Final = frozenset({State.WAITING, State.QUEUED})
_UNDONE: Final = _UNSTARTED | {State.RUNNING}


T = TypeVar("T")


class ChangedBatch(Protocol):
    """What a unit did to some jobs."""

    @property
    def transitions(self) -> Transitions:
        """All that was done, also to other jobs."""


Changed = TypeVar("Changed", bound=ChangedBatch)


class BulkEngine(Protocol):
    """Runs units of a back end."""

    def read(self, unit: UnitOfWork[T], /) -> Awaitable[T]:
        """Run a unit that reads."""

    def change(self, unit: UnitOfWork[Changed], /) -> Awaitable[Changed]:
        """Run a unit that ends or deletes jobs, in a transaction; apply the consequences."""


@dataclass(frozen=True, slots=True)
class BulkChanges:
    """The changes of many jobs. The callbacks get the ids of each batch that was committed."""

    engine: BulkEngine
    now: Callable[[], Millis] = now_ms
    plan_text: PlanText = search.plan

    async def preview_delete(self, filters: Filters) -> DeleteCount:
        """Count what `delete` would delete, and what it would keep."""
        deleted = not_done = 0
        async for job_ids in self._selected(filters, await self._newest()):
            count = await self.engine.read(partial(bulk_delete.preview, job_ids=job_ids))
            deleted, not_done = deleted + count.deleted, not_done + count.not_done
        return DeleteCount(deleted, not_done)

    async def delete(self, filters: Filters, on_deleted: Callable[[Sequence[int]], object]) -> DeleteCount:
        """Delete the selected jobs that are done."""
        deleted = not_done = 0
        async for job_ids in self._selected(filters, await self._newest()):
            batch = await self.engine.change(partial(bulk_delete.delete, job_ids=job_ids))
            on_deleted(batch.job_ids)
            deleted, not_done = deleted + len(batch.job_ids), not_done + batch.not_done
        return DeleteCount(deleted, not_done)

    async def preview_cancel(self, filters: Filters) -> int:
        """Count what `cancel` would cancel."""
        return (await self.preview_delete(_within(filters, _UNDONE))).not_done

    async def cancel(
        self, filters: Filters, on_cancelled: Callable[[Sequence[int]], object], *, kill_only: bool
    ) -> int:
        """Cancel the selected jobs that are not done.

        First those that have not started: else they would start in the places of the running ones that end.
        """
        cancelled, up_to = 0, await self._newest()
        for states in (_UNSTARTED, _UNDONE):
            async for job_ids in self._selected(_within(filters, states), up_to):
                unit = partial(
                    bulk_cancel.cancel, job_ids=job_ids, now=self.now(), states=states, kill_only=kill_only
                )
                batch = await self.engine.change(unit)
                on_cancelled(batch.job_ids)
                cancelled += len(batch.job_ids)
        return cancelled

    async def _newest(self) -> int:
        return await self.engine.read(selection.newest)

    async def _selected(self, filters: Filters, up_to: int) -> AsyncIterator[list[int]]:
        """Yield the ids of the matching jobs up to this id, batch by batch."""
        if filters.states is not None and not filters.states:
            return
        after: Position | None = None
        while True:
            page = partial(selection.page, filters=filters, up_to=up_to, after=after, plan_text=self.plan_text)
            job_ids, after = await self.engine.read(page)
            if job_ids:
                yield job_ids
            if after is None:
                return


def _within(filters: Filters, states: frozenset[State]) -> Filters:
    """Return the filters for those of the jobs that are in one of these states."""
    return replace(filters, states=states if filters.states is None else filters.states & states)
