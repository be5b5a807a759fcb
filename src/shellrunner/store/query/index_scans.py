"""Where jobs are found: each index as a source of ids, and what filters and sort keys mean in SQL.

Used by `listing`. Each statement here reads one index from a place on, as far as its LIMIT; none sorts.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, nextafter
from typing import Any, Final

from shellrunner.model import Ending, State
from shellrunner.store.filters import LAST, Filters, Order, SortKey, Value

# ruff: noqa: S608  every statement here is put together from constants of this module


@dataclass(frozen=True, slots=True)
class IndexScan:
    """One place of one index: all jobs there, in the order of their ids."""

    table: str
    where: str
    values: tuple[Any, ...]
    id: str = "id"
    above: int = 0  # only ids above this one

    def ids(self, db: sqlite3.Connection, limit: int, after: int, *, descending: bool) -> list[int]:
        """The next ids behind `after`."""
        lowest, highest = (self.above, after) if descending else (max(self.above, after), LAST)
        order = f"{self.id} DESC" if descending else self.id
        sql = f"""SELECT {self.id} FROM {self.table} WHERE {self.where} AND {self.id} > ? AND {self.id} < ?
            ORDER BY {order} LIMIT ?"""
        return [row[0] for row in db.execute(sql, (*self.values, lowest, highest, limit))]


# Together they hold every job that is meant, and may hold others.
ScanPlan = tuple[IndexScan, ...]
EVERYTHING: Final[ScanPlan] = (IndexScan("jobs", "TRUE", ()),)


def ids(db: sqlite3.Connection, source: ScanPlan, limit: int, after: int, *, descending: bool) -> list[int]:
    """The next ids behind `after` of all branches together."""
    found = {job_id for branch in source for job_id in branch.ids(db, limit, after, descending=descending)}
    return sorted(found, reverse=descending)[:limit]


@dataclass(frozen=True, slots=True)
class SortColumn:
    """A sort key's column and its index `jobs_<name>`, which holds the jobs that are `within`.

    `common`: the value that nearly all jobs have, and that is not in the index. A column that has one has few values,
    the others hardly ever twice the same.
    """

    name: str
    within: str = "TRUE"
    common: Value = None
    shown: str = ""  # as it counts for lists
    nullable: bool = False

    @property
    def value(self) -> str:
        """The expression for what counts in lists."""
        return self.shown or self.name

    @property
    def index(self) -> str:
        """What to read from."""
        return f"jobs INDEXED BY jobs_{self.name}"


_DONE: Final = "state = 'done'"
# That a job runs is known from its start, but how it went counts only once it is done.
_STARTED: Final = "CASE state WHEN 'done' THEN started END"
COLUMNS: Final = {
    SortKey.CREATED: SortColumn("created"),
    SortKey.PRIORITY: SortColumn("priority", "priority != 0", common=0),
    SortKey.QUEUE: SortColumn("queue", "queue != 'default'", common="default"),
    SortKey.STARTED: SortColumn("started", _DONE, shown=_STARTED, nullable=True),
    SortKey.COMPLETED: SortColumn("completed", _DONE, nullable=True),
    SortKey.DURATION: SortColumn("duration", _DONE, nullable=True),
    SortKey.EXIT_CODE: SortColumn("exit_code", "exit_code != 0", common=0, nullable=True),
    SortKey.ENDING: SortColumn("ending", "ending != 'exited'", common="exited", nullable=True),
}


def conditions(filters: Filters) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What a row must fulfil, but for the text."""
    for column, wanted in (("state", filters.states), *_choices(filters).items()):
        if wanted is not None:
            yield f"{column} IN ({', '.join('?' * len(wanted))})", tuple(wanted)
    for label in filters.labels:
        yield "EXISTS (SELECT 1 FROM labels WHERE key = ? AND value = ? AND job = jobs.id)", label
    for condition, bound in (
        ("created >= ?", filters.created_from),
        ("created < ?", filters.created_until),
        ("completed >= ?", filters.completed_from),
        ("completed < ?", filters.completed_until),
        ("duration >= ?", filters.min_duration),
        ("duration <= ?", filters.max_duration),
    ):
        if bound is not None:
            yield condition, (bound,)
    if filters.with_result:
        yield "stdout_bytes IS NOT NULL", ()


def _choices(filters: Filters) -> dict[SortKey, frozenset[Any] | None]:
    """The filters that name values."""
    return {
        SortKey.ENDING: filters.endings,
        SortKey.EXIT_CODE: filters.exit_codes,
        SortKey.QUEUE: filters.queues,
    }


def of_filters(filters: Filters) -> list[ScanPlan]:
    """The sources of those filters that have an index, but for the text."""
    found: list[ScanPlan] = [
        (IndexScan("labels", "key = ? AND value = ?", label, id="job"),) for label in filters.labels
    ]
    for key, wanted in _choices(filters).items():
        column = COLUMNS[key]
        if wanted is not None and column.common not in wanted:
            found.append(tuple(_having(column, value) for value in wanted))
    if filters.states is not None and State.DONE not in filters.states:
        found.append(_undone(filters.states, filters))
    return found


def of_value(filters: Filters, key: SortKey, value: Value) -> ScanPlan | None:
    """The source of the jobs with this value; None: anywhere."""
    column = COLUMNS[key]
    if value is None:
        return _undone(frozenset(State), filters) + _without(key)
    return (_having(column, value),) if value != column.common else None


def _having(column: SortColumn, value: Value) -> IndexScan:
    return IndexScan(column.index, f"{column.within} AND {column.name} = ?", (value,))


def _undone(states: frozenset[State], filters: Filters) -> ScanPlan:
    if filters.with_result:
        return ()
    wanted = sorted(states - {State.DONE})
    return tuple(
        IndexScan("jobs INDEXED BY jobs_undone", "state != 'done' AND state = ?", (state,)) for state in wanted
    )


def _without(key: SortKey) -> ScanPlan:
    """Jobs that are done, among them all without this value."""
    column = COLUMNS[key]
    if key is SortKey.EXIT_CODE:  # what has exited has one
        return tuple(_having(COLUMNS[SortKey.ENDING], ending) for ending in Ending if ending is not Ending.EXITED)
    if key is SortKey.ENDING or not column.nullable:
        return ()
    return (IndexScan(column.index, f"{column.within} AND {column.name} IS NULL", ()),)


Bounds = tuple[Value, Value]  # both belong to it
ANY: Final[Bounds] = (-LAST, LAST)


def bounds(filters: Filters, key: SortKey) -> Bounds | None:
    """Between which values of this key everything lies that is meant, if the filters say so."""
    least: Value = None
    most: Value = None
    if key is SortKey.CREATED:
        least, most = filters.created_from, _below(filters.created_until)
    elif key is SortKey.COMPLETED:
        least, most = filters.completed_from, _below(filters.completed_until)
    elif key is SortKey.DURATION:
        least, most = filters.min_duration, filters.max_duration
    if least is None and most is None:
        return None
    return ANY[0] if least is None else least, ANY[1] if most is None else most


def ranges(filters: Filters) -> Iterator[tuple[SortKey, Bounds]]:
    """The keys of which the filters give a range."""
    for key in (SortKey.CREATED, SortKey.COMPLETED, SortKey.DURATION):
        within = bounds(filters, key)
        if within is not None:
            yield key, within


def _below(bound: int | None) -> int | None:
    return None if bound is None else bound - 1


def behind(within: Bounds | None, order: Order, value: Value, *, itself: bool) -> Bounds:
    """What of these bounds lies behind a value."""
    least, most = within or ANY
    if not itself:
        assert isinstance(value, int | float)  # noqa: S101  columns of texts have few values
        towards = -inf if order.descending else inf
        value = nextafter(value, towards) if isinstance(value, float) else value + (-1 if order.descending else 1)
    return (least, value) if order.descending else (value, most)


def entries(db: sqlite3.Connection, order: Order, within: Bounds, limit: int) -> list[tuple[Value, int]]:
    """The first values of this key, with their jobs, in order."""
    column, direction = COLUMNS[order.key], "DESC" if order.descending else "ASC"
    sql = f"""SELECT {column.name}, id FROM {column.index} WHERE {column.within} AND {column.name} BETWEEN ? AND ?
        ORDER BY {column.name} {direction} LIMIT ?"""
    return db.execute(sql, (*within, limit)).fetchall()


def values(db: sqlite3.Connection, filters: Filters, order: Order, first: Value | None) -> Iterator[Value]:
    """Every value of a key with few values, in order, from `first` (None: the first) on; without the null."""
    wanted = _choices(filters).get(order.key)
    if wanted is not None:
        for choice in sorted(wanted, reverse=order.descending):
            if first is None or _in_order(order, first, choice):
                yield choice
        return
    value = _next(db, order, None) if first is None else first
    while value is not None:
        yield value
        value = _next(db, order, value)


def _in_order(order: Order, one: Value, other: Value) -> bool:
    return (one >= other) if order.descending else (one <= other)  # type: ignore[operator]


def _next(db: sqlite3.Connection, order: Order, value: Value) -> Value:
    """The value behind this one, or the first one."""
    column = COLUMNS[order.key]
    sign, direction, best = ("<", "DESC", max) if order.descending else (">", "ASC", min)
    beyond = f"AND {column.name} {sign} ?" if value is not None else ""
    sql = f"""SELECT {column.name} FROM {column.index} WHERE {column.within} {beyond}
        ORDER BY {column.name} {direction} LIMIT 1"""
    found = [row[0] for row in db.execute(sql, (value,) if beyond else ())]
    if value is None or (value != column.common and _in_order(order, value, column.common)):
        found.append(column.common)
    return best(found, default=None)
