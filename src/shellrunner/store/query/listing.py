"""Pages of lists: the jobs that match the filters, in the order of a sort, from a position on.

Units for a batch queue, used by the store; `walk` finds the positions. Must not write.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

from shellrunner.model.filters import Filters
from shellrunner.store import rows
from shellrunner.store.db import Db
from shellrunner.store.pagination import ListedJob, Order, Page, Position, Sort
from shellrunner.store.query import index_scans, search
from shellrunner.store.query.index_scans import ALL_JOBS
from shellrunner.store.query.walk import BudgetSpentError, PlanText, ScanLimits, Walk, id_of

_SCAN_LIMITS: Final = ScanLimits()
MAX_PAGE_CHARACTERS: Final = 1 << 23  # of its jobs' specs, after which a page ends; its first job may be larger


def page(
    db: Db,
    filters: Filters,
    sort: Sort,
    *,
    limit: int,
    after: Position | None = None,
    with_spec: bool = True,
    plan_text: PlanText = search.plan,
) -> Page:
    """Return up to `limit` jobs after a position; fewer, with a `next`, where few of the examined jobs match."""
    found, following = positions(db, filters, sort, limit=limit, after=after, plan_text=plan_text)
    jobs: list[ListedJob] = []
    characters = 0
    for job, length in rows.listed(db, [*map(id_of, found)], with_spec=with_spec):
        characters += length
        if characters > MAX_PAGE_CHARACTERS and jobs:
            return Page(jobs, found[: len(jobs)], found[len(jobs) - 1])
        jobs.append(job)
    return Page(jobs, found, following)


def positions(
    db: Db,
    filters: Filters,
    sort: Sort,
    *,
    limit: int,
    after: Position | None = None,
    scan_limits: ScanLimits = _SCAN_LIMITS,
    plan_text: PlanText = search.plan,
) -> tuple[Sequence[Position], Position | None]:
    """Return the positions of a page's jobs, and where the next page begins."""
    found: list[Position] = []
    walk = Walk(db, filters, sort, limit + 3, scan_limits, plan_text=plan_text).group((), after, ALL_JOBS)
    try:
        for position in islice(walk, limit + 1):
            found.append(position)  # noqa: PERF402  they are kept if the walk ends early, too
    except BudgetSpentError as spent:
        return found, spent.position
    return found[:limit], found[limit - 1] if len(found) > limit else None


def scan_order(filters: Filters) -> Sort:
    """Return the order in which the jobs that match lie together: by a bounded key, newest first, else by id."""
    for key, _ in index_scans.bounded_keys(filters):
        return (Order(key, descending=True),)
    return ()
