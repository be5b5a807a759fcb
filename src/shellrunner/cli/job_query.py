"""Which jobs are asked for, and what there is of them now.

Used by what lists jobs, once or again and again. Must not know terminals or tables.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from shellrunner.client import Client

T = TypeVar("T")

_PAGE: Final = 1000
_NO_STATUS: Final = dict.fromkeys(("started", "completed", "ending", "exit_code", "signal", "cancelling"))


class Query(NamedTuple):
    """Which jobs, and at most how many (0: all)."""

    filters: Mapping[str, Any]
    most: int


class JobQueryResult(NamedTuple):
    """Jobs, each with its status, and whether there are more."""

    rows: Sequence[Mapping[str, Any]]
    more: bool


async def look(client: Client, query: Query) -> JobQueryResult:
    """Ask which jobs there are now."""
    asked = {**query.filters, "limit": min(_PAGE, query.most + 1 if query.most else _PAGE)}
    jobs, statuses = await asyncio.gather(
        _some(client.jobs(**asked), query.most), _some(client.statuses(**asked), query.most)
    )
    known = {status["job_id"]: status for status in statuses}
    rows = [{**_NO_STATUS, **job, **known.get(job["job_id"], {})} for job in jobs]  # one may be too new to have one
    most = query.most or len(rows)
    return JobQueryResult(rows[:most], more=len(rows) > most)


async def _some(rows: AsyncIterator[T], most: int) -> list[T]:
    """So many of them and one more, so that it is known whether there are more."""
    found: list[T] = []
    async for row in rows:
        found.append(row)
        if len(found) == most + 1 and most:
            break
    return found
