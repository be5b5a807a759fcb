"""Bounded scans of the indexes, and what filters and sort keys mean in SQL.

Used by `walk`. Every statement reads one index from a place on, up to its LIMIT; none sorts or scans the table.

An index of `jobs` ends with the rowid, which is the id. So all jobs with one value lie together, in the order of
their ids, and any place among them is found by seeking:

    jobs_queue (queue, id)      build 3 · build 9 · mail 2 · mail 7 · mail 8 · …
    IndexScan(queue = 'mail')                       └─ next_ids(after=2): seek to (mail, 2), then 7, 8

Nearly all jobs share some values (exit code 0, queue "default"). Those, a column's `common` value, are in no index:
they would make it as large as the table and select nothing. Jobs with the common value are found by any other order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, nextafter
from typing import Any, Final

from shellrunner.model import Ending, State
from shellrunner.model.filters import FILTERS, Comparison, FilterInfo, Filters
from shellrunner.store.db import Db
from shellrunner.store.pagination import MAX_ID, Order, SortKey, Value

# ruff: noqa: S608  every statement here is composed of constants of this module


@dataclass(frozen=True, slots=True)
class IndexScan:
    """The jobs at one place of one index, in the order of their ids; `above`: only ids above this one."""

    table: str
    where: str
    values: tuple[Any, ...]
    id: str = "id"
    above: int = 0

    def next_ids(self, db: Db, limit: int, after: int, *, descending: bool) -> list[int]:
        """Return up to `limit` ids that follow `after`."""
        lowest, highest = (self.above, after) if descending else (max(self.above, after), MAX_ID)
        order = f"{self.id} DESC" if descending else self.id
        sql = f"""SELECT {self.id} FROM {self.table} WHERE {self.where} AND {self.id} > ? AND {self.id} < ?
            ORDER BY {order} LIMIT ?"""
        return [row[0] for row in db.execute(sql, (*self.values, lowest, highest, limit))]


# Scans that together find every job wanted, and possibly others.
ScanPlan = tuple[IndexScan, ...]
ALL_JOBS: Final[ScanPlan] = (IndexScan("jobs", "TRUE", ()),)


def next_ids(db: Db, plan: ScanPlan, limit: int, after: int, *, descending: bool) -> list[int]:
    """Return up to `limit` ids that follow `after`, of all scans of the plan together."""
    if len(plan) == 1:
        return plan[0].next_ids(db, limit, after, descending=descending)
    found = {job_id for scan in plan for job_id in scan.next_ids(db, limit, after, descending=descending)}
    return sorted(found, reverse=descending)[:limit]


# Columns -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SortColumn:
    """A sort key's column, and its index `jobs_<name>`, which holds the jobs that match `predicate`.

    `common`: the value that nearly all jobs have, and that is not in the index. `is_walked_by_value`: it has few
    distinct values, as a column with a common one has, or texts; the values of the other columns are almost unique.
    """

    name: str
    predicate: str = "TRUE"
    common: Value = None
    nullable: bool = False
    is_walked_by_value: bool = False

    @property
    def indexed(self) -> str:
        """The table, read by this column's index."""
        return f"jobs INDEXED BY jobs_{self.name}"


_DONE: Final = "state = 'done'"
COLUMNS: Final = {
    SortKey.CREATED: SortColumn("created"),
    SortKey.PRIORITY: SortColumn("priority", "priority != 0", common=0, is_walked_by_value=True),
    SortKey.QUEUE: SortColumn("queue", "queue != 'default'", common="default", is_walked_by_value=True),
    SortKey.NAME: SortColumn("name", "name IS NOT NULL", nullable=True, is_walked_by_value=True),
    SortKey.STARTED: SortColumn("started", _DONE, nullable=True),
    SortKey.COMPLETED: SortColumn("completed", _DONE, nullable=True),
    SortKey.DURATION: SortColumn("duration", _DONE, nullable=True),
    SortKey.EXIT_CODE: SortColumn("exit_code", "exit_code != 0", common=0, nullable=True, is_walked_by_value=True),
    SortKey.ENDING: SortColumn(
        "ending", "ending != 'exited'", common="exited", nullable=True, is_walked_by_value=True
    ),
}
_BY_NAME: Final = {column.name: key for key, column in COLUMNS.items()}


# Filters -----------------------------------------------------------------------------------------------------------

HOST: Final = "CAST(NULL AS TEXT)"  # of a job: SQLite's table has no such column, as there is one host
Condition = tuple[str, tuple[Any, ...]]
_OPERATORS: Final = {Comparison.AT_LEAST: ">=", Comparison.AT_MOST: "<=", Comparison.BELOW: "<"}


def _conditions_of(info: FilterInfo) -> Callable[[Any], list[Condition]]:
    """Return what makes SQL of a filter's value; the text is compared by `search`, not here."""
    key = _BY_NAME.get(info.compared)
    column = COLUMNS[key].name if key is not None else HOST if info.compared == "host" else info.compared
    match info.comparison:
        case Comparison.CONTAINS:
            return lambda _: []
        case Comparison.HAS_LABELS:
            exists = "EXISTS (SELECT 1 FROM labels WHERE key = ? AND value = ? AND job = jobs.id)"
            return lambda labels: [(exists, label) for label in labels]
        case Comparison.IN:
            return lambda values: [(f"{column} IN ({', '.join('?' * len(values))})", tuple(values))]
    sql = f"{column} {_OPERATORS[info.comparison]} ?"
    return lambda bound: [(sql, (bound,))]


def _bounds_on(column: SortColumn) -> list[tuple[str, Comparison]]:
    return [
        (field, info.comparison)
        for field, info in FILTERS.items()
        if info.compared == column.name and info.comparison in _OPERATORS
    ]


_CONDITIONS: Final = {field: _conditions_of(info) for field, info in FILTERS.items()}
# The fields by the column that they compare: values that are chosen, and bounds. An index without the common value
# cannot answer bounds that include it, so bounds count only where an index holds all values.
_CHOSEN: Final = {
    _BY_NAME[info.compared]: field
    for field, info in FILTERS.items()
    if info.comparison is Comparison.IN and info.compared in _BY_NAME
}
_BOUNDS: Final = {
    key: bounds for key, column in COLUMNS.items() if not column.is_walked_by_value and (bounds := _bounds_on(column))
}


def conditions(filters: Filters) -> Iterator[Condition]:
    """Yield what a row must match, apart from the text."""
    for field, make in _CONDITIONS.items():
        value = getattr(filters, field)
        if value is not None:
            yield from make(value)
    if filters.with_result:
        yield "stdout_bytes IS NOT NULL", ()


def plans_of_filters(filters: Filters) -> list[ScanPlan]:
    """Return a plan for each filter that an index answers, apart from the text."""
    plans: list[ScanPlan] = [
        (IndexScan("labels", "key = ? AND value = ?", label, id="job"),) for label in filters.labels
    ]
    for key, field in _CHOSEN.items():
        column, chosen = COLUMNS[key], getattr(filters, field)
        if chosen is not None and column.common not in chosen:
            plans.append(tuple(_scan_value(column, value) for value in chosen))
    if filters.states is not None and State.DONE not in filters.states:
        plans.append(_scan_undone(filters.states, filters))
    return plans


def plan_of_value(filters: Filters, key: SortKey, value: Value) -> ScanPlan | None:
    """Return the plan for the jobs with this value; None if no index has it."""
    column = COLUMNS[key]
    if value is None and key is SortKey.NAME:  # as for a common value
        return None
    if value is None:
        return _scan_undone(frozenset(State), filters) + _scan_null(key)
    return (_scan_value(column, value),) if value != column.common else None


def _scan_value(column: SortColumn, value: Value) -> IndexScan:
    return IndexScan(column.indexed, f"{column.predicate} AND {column.name} = ?", (value,))


def _scan_undone(states: frozenset[State], filters: Filters) -> ScanPlan:
    if filters.with_result:
        return ()
    undone = sorted(states - {State.DONE})
    return tuple(
        IndexScan("jobs INDEXED BY jobs_undone", "state != 'done' AND state = ?", (state,)) for state in undone
    )


def _scan_null(key: SortKey) -> ScanPlan:
    """Return scans of jobs that are done, with all among them that have no value of this key."""
    column = COLUMNS[key]
    if key is SortKey.EXIT_CODE:  # every job that exited has one
        return tuple(_scan_value(COLUMNS[SortKey.ENDING], ending) for ending in Ending if ending != Ending.EXITED)
    if key is SortKey.ENDING or not column.nullable:
        return ()
    return (IndexScan(column.indexed, f"{column.predicate} AND {column.name} IS NULL", ()),)


# Bounds ------------------------------------------------------------------------------------------------------------

Bounds = tuple[Value, Value]  # inclusive
UNBOUNDED: Final[Bounds] = (-MAX_ID, MAX_ID)


def bounds_of(filters: Filters, key: SortKey) -> Bounds | None:
    """Return the bounds that the filters set for the values of this key; None if they set none."""
    lowest, highest = UNBOUNDED
    bounded = False
    for field, comparison in _BOUNDS.get(key, ()):
        value = getattr(filters, field)
        if value is None:
            continue
        bounded = True
        if comparison is Comparison.AT_LEAST:
            lowest = value
        else:
            highest = value if comparison is Comparison.AT_MOST else _just_below(value)
    return (lowest, highest) if bounded else None


def _just_below(bound: int | float) -> int | float:
    return bound - 1 if isinstance(bound, int) else nextafter(bound, -inf)


def bounded_keys(filters: Filters) -> Iterator[tuple[SortKey, Bounds]]:
    """Yield the keys for whose values the filters set bounds."""
    for key in _BOUNDS:
        bounds = bounds_of(filters, key)
        if bounds is not None:
            yield key, bounds


def bounds_from(bounds: Bounds | None, order: Order, value: Value, *, inclusive: bool) -> Bounds:
    """Narrow bounds to what follows a value in this order."""
    lowest, highest = bounds or UNBOUNDED
    if not inclusive:
        assert isinstance(value, int | float)  # noqa: S101  columns of texts have few values, and are not walked
        towards = -inf if order.descending else inf
        value = nextafter(value, towards) if isinstance(value, float) else value + (-1 if order.descending else 1)
    return (lowest, value) if order.descending else (value, highest)


# Values ------------------------------------------------------------------------------------------------------------


def next_entries(db: Db, order: Order, bounds: Bounds, limit: int) -> list[tuple[Value, int]]:
    """Return the first values of this key within the bounds, with their jobs, in order."""
    column, direction = COLUMNS[order.key], "DESC" if order.descending else "ASC"
    sql = f"""SELECT {column.name}, id FROM {column.indexed}
        WHERE {column.predicate} AND {column.name} BETWEEN ? AND ? ORDER BY {column.name} {direction} LIMIT ?"""
    return db.execute(sql, (*bounds, limit)).fetchall()


def distinct_values(db: Db, filters: Filters, order: Order, first: Value | None) -> Iterator[Value]:
    """Yield the distinct values of a key that has few, in order, from `first` (None: the first) on, without null.

    Each is found by seeking beyond the one before it (a skip scan), however many jobs have it.
    """
    field = _CHOSEN.get(order.key)
    chosen = getattr(filters, field) if field is not None else None
    if chosen is not None:
        for value in sorted(chosen, reverse=order.descending):
            if first is None or _in_order(order, first, value):
                yield value
        return
    value = _next_value(db, order, None) if first is None else first
    while value is not None:
        yield value
        value = _next_value(db, order, value)


def _in_order(order: Order, one: Value, other: Value) -> bool:
    return (one >= other) if order.descending else (one <= other)  # type: ignore[operator]


def _next_value(db: Db, order: Order, value: Value) -> Value:
    """Return the value that follows this one (None: the first); the common value is not in the index."""
    column = COLUMNS[order.key]
    operator, direction, best = ("<", "DESC", max) if order.descending else (">", "ASC", min)
    beyond = f"AND {column.name} {operator} ?" if value is not None else ""
    sql = f"""SELECT {column.name} FROM {column.indexed} WHERE {column.predicate} {beyond}
        ORDER BY {column.name} {direction} LIMIT 1"""
    found = [row[0] for row in db.execute(sql, (value,) if beyond else ())]
    common = column.common
    if common is not None and (value is None or (value != common and _in_order(order, value, common))):
        found.append(common)
    return best(found, default=None)
