"""Pages of lists: any filters in any order, by looking at a bounded number of rows.

Units for a lane, used by the store. Decides which index is walked; `sources` knows the indexes. Must not write.

A sort is answered key by key. A key with few values: its values in order, each a group with the rest of the sort.
Another key: along its index, where jobs with one value are few; if they are many, they are a group too. A group in
which some index knows only a FEW jobs is sorted in memory; one that needs no more sorting is walked by the ids. Each
step along an index is limited, and after so many steps the page ends, full or not, with the place that was reached.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from shellrunner.model import Job, JobSpec
from shellrunner.store.filters import LAST, Filters, Order, Page, Position, Sort, Value, position
from shellrunner.store.query import index_scans, search
from shellrunner.store.query.index_scans import COLUMNS, EVERYTHING, ScanPlan
from shellrunner.store.units import rows

# ruff: noqa: S608  statements are put together from constants of `sources`


@dataclass(frozen=True, slots=True)
class Effort:
    """How much may be looked at: jobs that are sorted in memory, jobs in one step, and jobs for one page."""

    few: int = 8_000
    stride: int = 2_000
    page: int = 20_000


EFFORT: Final = Effort()
ROOM: Final = 1 << 23  # characters of jobs after which a page ends; its first job may be larger
_GROUP: Final = 20  # what finding a group costs, in jobs looked at
_PROBE: Final = 10  # entries of an index that cost as much as looking at a job
_TEXT: Final = 1_000  # characters that do


def page(
    db: sqlite3.Connection,
    filters: Filters,
    sort: Sort,
    *,
    limit: int,
    after: Position | None = None,
    effort: Effort = EFFORT,
) -> Page:
    """Up to `limit` jobs behind `after`; fewer, but still with a `next`, where few of those looked at are meant."""
    places, following = some(db, filters, sort, limit=limit, after=after, effort=effort)
    jobs: list[Job] = []
    room = ROOM
    for place in places:
        job = rows.job_or_what_is_left(db, _id(place))
        room -= _size(job.spec)
        if room < 0 and jobs:
            return Page(jobs, position(jobs[-1], sort))
        jobs.append(job)
    return Page(jobs, following)


def some(
    db: sqlite3.Connection,
    filters: Filters,
    sort: Sort,
    *,
    limit: int,
    after: Position | None = None,
    effort: Effort = EFFORT,
) -> tuple[Sequence[Position], Position | None]:
    """The places of a page's jobs, and where the next page begins."""
    found: list[Position] = []
    walk = _Walk(db, filters, sort, limit + 3, effort).group((), after, EVERYTHING)
    try:
        for place in islice(walk, limit + 1):
            found.append(place)  # noqa: PERF402  they are kept also if the walk ends early
    except _EnoughError as enough:
        return found, enough.place
    return found[:limit], found[limit - 1] if len(found) > limit else None


def by_range(filters: Filters) -> Sort:
    """The order in which jobs that are meant lie together if a range is given, the newest first; else by the id."""
    for key, _ in index_scans.ranges(filters):
        return (Order(key, descending=True),)
    return ()


class _EnoughError(Exception):
    """As much was looked at as may be for one page; everything before `place` was."""

    def __init__(self, place: Position) -> None:
        super().__init__()
        self.place = place


class _Walk:
    """One walk in one order. Places are whole positions; a group is the values of the first keys."""

    def __init__(self, db: sqlite3.Connection, filters: Filters, sort: Sort, stride: int, effort: Effort) -> None:
        self._db = db
        self._filters = filters
        self._needle = search.fold(filters.text or "")
        self._sort = sort
        self._down = sort[-1].descending if sort else True
        self._effort = effort
        self._stride = min(stride, effort.stride)
        self._left = effort.page

    def group(self, group: tuple[Value, ...], after: Position | None, source: ScanPlan) -> Iterator[Position]:
        """The places behind `after` in this group. `source` has them all, and no index has them as a few."""
        own = self._sources(group)
        few = self._few(own, group)
        source = own[0] if own else source
        if len(group) == len(self._sort):
            yield from self._by_id(group, after, source, few)
        elif few is not None:
            yield from self._fitting(few, group, after)
            if group:
                self._looked(0, self._end(group))
        elif COLUMNS[self._sort[len(group)].key].common is not None:
            yield from self._by_values(group, after, source)
        else:
            yield from self._along(group, after, source)

    # The ways to walk ------------------------------------------------------------------------------------------

    def _by_id(
        self, group: tuple[Value, ...], after: Position | None, source: ScanPlan, few: list[int] | None
    ) -> Iterator[Position]:
        last, stride = (_id(after) if after else LAST if self._down else 0), self._stride
        while ids := self._next(source, few, stride, last):
            yield from self._fitting(ids, group, None)
            if len(ids) < stride:
                return
            last, stride = ids[-1], self._longer(stride)
            self._looked(0, (*group, last))

    def _by_values(self, group: tuple[Value, ...], after: Position | None, source: ScanPlan) -> Iterator[Position]:
        order = self._sort[len(group)]
        reached = after[len(group)] if after else None
        if after is None or reached is not None:
            for value in index_scans.values(self._db, self._filters, order, reached):
                yield from self._group_of(group, value, after, source)
        if COLUMNS[order.key].nullable:
            yield from self._group_of(group, None, after, source)

    def _along(self, group: tuple[Value, ...], after: Position | None, source: ScanPlan) -> Iterator[Position]:
        order = self._sort[len(group)]
        within = index_scans.bounds(self._filters, order.key)
        if after is None or after[len(group)] is not None:
            yield from self._along_index(group, order, after, source)
        if COLUMNS[order.key].nullable and within is None:
            yield from self._group_of(group, None, after, source)

    def _along_index(
        self, group: tuple[Value, ...], order: Order, after: Position | None, source: ScanPlan
    ) -> Iterator[Position]:
        within, stride = self._within(group, order, after), self._stride
        while entries := index_scans.entries(self._db, order, within, stride):
            last = entries[-1][0]
            whole = entries
            if len(entries) == stride:  # of the last value there may be more
                whole = [entry for entry in entries if entry[0] != last]
            if whole:
                last = whole[-1][0]
                yield from self._fitting([job_id for _, job_id in whole], group, after)
                self._looked(0, self._end((*group, last)))
            else:
                yield from self._group_of(group, last, after, source)
            if len(entries) < stride:
                return
            within = index_scans.behind(within, order, last, itself=False)
            stride = self._longer(stride)

    def _group_of(
        self, group: tuple[Value, ...], value: Value, after: Position | None, source: ScanPlan
    ) -> Iterator[Position]:
        inside = (*group, value)
        if after == self._end(inside):
            return
        begun = after is not None and after[: len(inside)] == inside
        yield from self.group(inside, after if begun else None, source)
        self._looked(_GROUP, self._end(inside))

    def _within(self, group: tuple[Value, ...], order: Order, after: Position | None) -> index_scans.Bounds:
        within = index_scans.bounds(self._filters, order.key) or index_scans.ANY
        if after is None:
            return within
        reached = after[len(group)]
        return index_scans.behind(within, order, reached, itself=after != self._end((*group, reached)))

    # What is looked at -----------------------------------------------------------------------------------------

    def _sources(self, group: tuple[Value, ...]) -> list[ScanPlan]:
        """What this group has beyond the one around it."""
        if group:
            own = index_scans.of_value(self._filters, self._sort[len(group) - 1].key, group[-1])
            return [own] if own is not None else []
        found = index_scans.of_filters(self._filters)
        by_text = search.source(self._db, self._needle)
        return [*found, by_text] if by_text is not None else found

    def _few(self, own: list[ScanPlan], group: tuple[Value, ...]) -> list[int] | None:
        """All ids among which the group is, if some index has but a few."""
        ranges = [] if group else [*index_scans.ranges(self._filters)]
        if self._sort:  # along its own key a range is in order
            ranges = [(key, within) for key, within in ranges if key is not self._sort[0].key]
        if len(group) == len(self._sort) and len(own) <= 1 and not ranges:
            return None  # the one that there is has them in order
        most = self._effort.few
        found = [self._next(source, None, most + 1, LAST if self._down else 0) for source in own]
        for key, within in ranges:
            entries = index_scans.entries(self._db, Order(key, self._down), within, most + 1)
            found.append([job_id for _, job_id in entries])
        self._left -= sum(map(len, found)) // _PROBE
        return min((ids for ids in found if len(ids) <= most), key=len, default=None)

    def _next(self, source: ScanPlan, few: list[int] | None, most: int, last: int) -> list[int]:
        """The next ids behind `last`."""
        if few is None:
            return index_scans.ids(self._db, source, most, last, descending=self._down)
        behind = [job_id for job_id in few if (job_id < last if self._down else job_id > last)]
        return sorted(behind, reverse=self._down)[:most]

    def _fitting(self, ids: Sequence[int], group: tuple[Value, ...], after: Position | None) -> Iterator[Position]:
        """The places behind `after` of those of these jobs that are meant and belong to the group, in order."""
        columns = [COLUMNS[order.key].value for order in self._sort]
        reached = self._rank(after) if after else ()
        found: list[tuple[tuple[Any, ...], Position]] = []
        read = 0
        asked = [*index_scans.conditions(self._filters)]
        asked += [(f"{column} IS ?", (value,)) for column, value in zip(columns, group, strict=False)]
        sql = f"""SELECT {", ".join([*columns, "jobs.id", "command" if self._needle else "''"])}
            FROM json_each(?) AS wanted CROSS JOIN jobs ON jobs.id = wanted.value
            WHERE {" AND ".join(["TRUE", *(condition for condition, _ in asked)])}"""
        bound: list[Any] = [value for _, values in asked for value in values]
        for *place, command in self._db.execute(sql, (json.dumps(sorted(ids)), *bound)):
            read += len(command)
            rank = self._rank(tuple(place))
            if rank > reached and self._needle in search.fold(command):
                found.append((rank, tuple(place)))
        self._left -= len(ids) + read // _TEXT
        return (place for _, place in sorted(found))

    def _looked(self, cost: int, place: Position) -> None:
        """Account for a step that ended here; called with progress made, so that no page stays where it began."""
        self._left -= cost
        if self._left <= 0:
            raise _EnoughError(place)

    def _longer(self, stride: int) -> int:
        return min(2 * stride, self._effort.stride)

    def _end(self, group: tuple[Value, ...]) -> Position:
        """The place behind all jobs of a group."""
        return (*group, *[None] * (len(self._sort) - len(group)), 0 if self._down else LAST)

    def _rank(self, place: Position) -> tuple[Any, ...]:
        """What orders places."""
        ranks: list[Any] = []
        for value, order in zip(place, self._sort, strict=False):
            ranks += _rank(value, order.descending)
        return (*ranks, -_id(place) if self._down else _id(place))


def _rank(value: Value, descending: bool) -> tuple[Any, ...]:
    if value is None:
        return (1, 0)
    if not descending:
        return (0, value)
    if isinstance(value, str):
        return (0, [*(-ord(character) for character in value), 1])
    return (0, -value)


def _id(place: Position) -> int:
    job_id = place[-1]
    assert isinstance(job_id, int)  # noqa: S101  the last of a position is an id
    return job_id


def _size(spec: JobSpec) -> int:
    return len(spec.command or "") + sum(map(len, spec.argv or ())) + sum(map(len, spec.env))
