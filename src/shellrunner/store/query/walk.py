"""The walk that answers a list: any filters in any order, by examining a bounded number of rows.

Used by `listing`. Decides which index is walked (`index_scans` knows the indexes). Must not write.

A sort is answered key by key; each value of a key opens a group in which the rest of the sort is answered:

    sort  queue, -duration
          ├─ queue = build    an index has few jobs of it  → read them all, sort in memory
          ├─ queue = default  many                         → walk jobs_duration downwards, keep those of the queue
          │    ├─ 9.8 s  8.1 s  …                             almost unique values: batches along the index
          │    └─ 0.1 s ×5,000                                a value of many jobs: a group of its own, by id
          └─ queue = mail     …

A key with few distinct values (queue, ending, …) is walked value by value, any other key along its index. A group
that needs no more sorting is walked by ids. Every step is limited, and each costs a part of the page's budget. Once
that is spent, the page ends, full or not, with the position reached, and the next page goes on from there. So a page
costs the same in a history of a million jobs as in one of a thousand.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shellrunner.model.filters import Filters
from shellrunner.store.db import Db
from shellrunner.store.pagination import MAX_ID, Order, Position, Sort, Value
from shellrunner.store.query import index_scans, search
from shellrunner.store.query.index_scans import COLUMNS, ScanPlan

# ruff: noqa: S608  statements are composed of constants of `index_scans`

# Finds every job whose folded text may contain the folded needle, see `search.plan`; None: any job may.
PlanText = Callable[[Db, str], ScanPlan | None]

_NO_FILTERS: Final = Filters()
# What a step costs besides the jobs that it examines, in jobs.
_GROUP_COST: Final = 20
_ENTRIES_PER_JOB: Final = 10  # entries of an index that are read for the price of one job
_CHARACTERS_PER_JOB: Final = 1_000  # and characters that are searched


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """Limits of jobs: sorted in memory, read in one step, and examined for one page."""

    max_sorted: int = 8_000
    batch_size: int = 2_000
    max_examined: int = 20_000


class BudgetSpentError(Exception):
    """As many jobs were examined as one page may cost; everything before `position` was."""

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position


class Walk:
    """One walk in one order. A group is named by the values of the first keys, a position by those of all."""

    def __init__(
        self,
        db: Db,
        filters: Filters,
        sort: Sort,
        batch_size: int,
        limits: ScanLimits,
        *,
        plan_text: PlanText = search.plan,
    ) -> None:
        """`plan_text`: the back end's index of what is searched."""
        self._db = db
        self._plan_text = plan_text
        self._filters = filters
        self._needle = search.fold(filters.text or "")
        self._sort = sort
        self._descending = sort[-1].descending if sort else True
        self._limits = limits
        self._batch_size = min(batch_size, limits.batch_size)
        self._budget = limits.max_examined

    def group(self, group: tuple[Value, ...], after: Position | None, plan: ScanPlan) -> Iterator[Position]:
        """Yield the positions after `after` in this group; `plan` finds all jobs of the group around it."""
        own = self._plans(group)
        few = self._few_ids(own, group)
        plan = own[0] if own else plan
        if len(group) == len(self._sort):
            yield from self._byid_of(group, after, plan, few)
        elif few is not None:
            yield from self._matching(few, group, after)
            if group:
                self._spend(0, self._end(group))
        elif COLUMNS[self._sort[len(group)].key].is_walked_by_value:
            yield from self._by_value(group, after, plan)
        else:
            yield from self._along_key(group, after, plan)

    # Ways to walk a group --------------------------------------------------------------------------------------

    def _byid_of(
        self, group: tuple[Value, ...], after: Position | None, plan: ScanPlan, few: list[int] | None
    ) -> Iterator[Position]:
        last, size = (id_of(after) if after else MAX_ID if self._descending else 0), self._batch_size
        while ids := self._next_ids(plan, few, size, last):
            yield from self._matching(ids, group, None)
            if len(ids) < size:
                return
            last, size = ids[-1], self._grow(size)
            self._spend(0, (*group, last))

    def _by_value(self, group: tuple[Value, ...], after: Position | None, plan: ScanPlan) -> Iterator[Position]:
        order = self._sort[len(group)]
        reached = after[len(group)] if after else None
        if after is None or reached is not None:
            for value in index_scans.distinct_values(self._db, self._filters, order, reached):
                yield from self._inner_group(group, value, after, plan)
        if COLUMNS[order.key].nullable:
            yield from self._inner_group(group, None, after, plan)

    def _along_key(self, group: tuple[Value, ...], after: Position | None, plan: ScanPlan) -> Iterator[Position]:
        order = self._sort[len(group)]
        bounds = index_scans.bounds_of(self._filters, order.key)
        if after is None or after[len(group)] is not None:
            yield from self._along_index(group, order, after, plan)
        if COLUMNS[order.key].nullable and bounds is None:
            yield from self._inner_group(group, None, after, plan)

    def _along_index(
        self, group: tuple[Value, ...], order: Order, after: Position | None, plan: ScanPlan
    ) -> Iterator[Position]:
        bounds, size = self._bounds(group, order, after), self._batch_size
        while entries := index_scans.next_entries(self._db, order, bounds, size):
            last = entries[-1][0]
            whole = entries
            if len(entries) == size:  # there may be more entries of the last value
                whole = [entry for entry in entries if entry[0] != last]
            if whole:
                last = whole[-1][0]
                yield from self._matching([job_id for _, job_id in whole], group, after)
                self._spend(0, self._end((*group, last)))
            else:  # all of the batch have one value
                yield from self._inner_group(group, last, after, plan)
            if len(entries) < size:
                return
            bounds = index_scans.bounds_from(bounds, order, last, inclusive=False)
            size = self._grow(size)

    def _inner_group(
        self, group: tuple[Value, ...], value: Value, after: Position | None, plan: ScanPlan
    ) -> Iterator[Position]:
        inner = (*group, value)
        if after == self._end(inner):
            return
        begun = after is not None and after[: len(inner)] == inner
        yield from self.group(inner, after if begun else None, plan)
        self._spend(_GROUP_COST, self._end(inner))

    def _bounds(self, group: tuple[Value, ...], order: Order, after: Position | None) -> index_scans.Bounds:
        bounds = index_scans.bounds_of(self._filters, order.key) or index_scans.UNBOUNDED
        if after is None:
            return bounds
        reached = after[len(group)]
        return index_scans.bounds_from(bounds, order, reached, inclusive=after != self._end((*group, reached)))

    # What is examined ------------------------------------------------------------------------------------------

    def _plans(self, group: tuple[Value, ...]) -> list[ScanPlan]:
        """Return the plans that narrow this group, beyond those of the group around it."""
        if group:
            plan = index_scans.plan_of_value(self._filters, self._sort[len(group) - 1].key, group[-1])
            return [plan] if plan is not None else []
        plans = index_scans.plans_of_filters(self._filters)
        by_text = self._plan_text(self._db, self._needle)
        return [*plans, by_text] if by_text is not None else plans

    def _few_ids(self, own: list[ScanPlan], group: tuple[Value, ...]) -> list[int] | None:
        """Return ids that include all of the group, if some index has few enough to sort them in memory."""
        bounded = [] if group else [*index_scans.bounded_keys(self._filters)]
        if self._sort:  # along its own key, a bounded range is in order already
            bounded = [(key, bounds) for key, bounds in bounded if key is not self._sort[0].key]
        if len(group) == len(self._sort) and len(own) <= 1 and not bounded:
            return None  # the only plan that there is has them in order
        limit = self._limits.max_sorted
        found = [self._next_ids(plan, None, limit + 1, MAX_ID if self._descending else 0) for plan in own]
        for key, bounds in bounded:
            entries = index_scans.next_entries(self._db, Order(key, self._descending), bounds, limit + 1)
            found.append([job_id for _, job_id in entries])
        self._budget -= sum(map(len, found)) // _ENTRIES_PER_JOB
        return min((ids for ids in found if len(ids) <= limit), key=len, default=None)

    def _next_ids(self, plan: ScanPlan, few: list[int] | None, limit: int, last: int) -> list[int]:
        """Return the ids that follow `last`: of `few`, if there are few, else of the plan."""
        if few is None:
            return index_scans.next_ids(self._db, plan, limit, last, descending=self._descending)
        following = [job_id for job_id in few if (job_id < last if self._descending else job_id > last)]
        return sorted(following, reverse=self._descending)[:limit]

    def _matching(self, ids: Sequence[int], group: tuple[Value, ...], after: Position | None) -> Iterator[Position]:
        """Yield the positions after `after` of those of these jobs that match and belong to the group, in order."""
        columns = [COLUMNS[order.key].name for order in self._sort]
        if not columns and self._filters == _NO_FILTERS:  # then every id is a position
            self._budget -= len(ids)
            return ((job_id,) for job_id in sorted(ids, reverse=self._descending))
        matching: list[Position] = []
        characters = 0
        conditions = [*index_scans.conditions(self._filters)]
        conditions += [(f"{column} IS ?", (value,)) for column, value in zip(columns, group, strict=False)]
        sql = f"""SELECT {", ".join([*columns, "jobs.id", search.TEXT if self._needle else "''"])}
            FROM json_each(?) AS wanted CROSS JOIN jobs ON jobs.id = wanted.value
            WHERE {" AND ".join(["TRUE", *(condition for condition, _ in conditions)])}"""
        parameters: list[Any] = [value for _, values in conditions for value in values]
        for *position, text in self._db.execute(sql, (json.dumps(sorted(ids)), *parameters)):
            characters += len(text)
            if not self._needle or self._needle in search.fold(text):
                matching.append(tuple(position))
        self._budget -= len(ids) + characters // _CHARACTERS_PER_JOB
        if not columns:
            return iter(sorted(matching, key=id_of, reverse=self._descending))
        reached = self._rank(after) if after else ()
        ranked = sorted((self._rank(position), position) for position in matching)
        return (position for rank, position in ranked if rank > reached)

    def _spend(self, cost: int, position: Position) -> None:
        """Charge the budget for a step that ended here. Only after progress, so that no page ends where it began."""
        self._budget -= cost
        if self._budget <= 0:
            raise BudgetSpentError(position)

    def _grow(self, size: int) -> int:
        return min(2 * size, self._limits.batch_size)

    def _end(self, group: tuple[Value, ...]) -> Position:
        """Return the position after all jobs of a group."""
        return (*group, *[None] * (len(self._sort) - len(group)), 0 if self._descending else MAX_ID)

    def _rank(self, position: Position) -> tuple[Any, ...]:
        """Return what sorts positions in the order of the list."""
        ranks: list[Any] = []
        for value, order in zip(position, self._sort, strict=False):
            ranks += _rank(value, order.descending)
        return (*ranks, -id_of(position) if self._descending else id_of(position))


def _rank(value: Value, descending: bool) -> tuple[Any, ...]:
    if value is None:
        return (1, 0)
    if not descending:
        return (0, value)
    if isinstance(value, str):
        return (0, [*(-ord(character) for character in value), 1])
    return (0, -value)


def id_of(position: Position) -> int:
    job_id = position[-1]
    assert isinstance(job_id, int)  # noqa: S101  the last item of a position is an id
    return job_id
