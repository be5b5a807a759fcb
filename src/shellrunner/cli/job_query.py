"""Selection of jobs: the `--filter` option, and the matching jobs together with their statuses.

The service checks the filters. Must not know terminals or tables.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import click

from shellrunner.client import Client

T = TypeVar("T")
Filters = tuple[tuple[str, str], ...]

_PAGE_SIZE: Final = 1000
_NO_STATUS: Final = dict.fromkeys(("started", "completed", "ending", "exit_code", "signal", "cancelling"))


def _parse_filters(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Filters:
    filters = []
    for text in value:
        name, equals, content = text.partition("=")
        if not (name and equals):
            detail = f"{text!r} must be NAME=VALUE, such as state=running or label=team:web"
            raise click.BadParameter(detail, ctx, param)
        filters.append((name, content))
    return tuple(filters)


class _FilterOption(click.Option):
    """Its help names all filters, which are imported only to be shown."""

    @property
    def help(self) -> str:
        from shellrunner.model.filters import FILTERS  # noqa: PLC0415

        return f"Only matching jobs: {', '.join(info.parameter for info in FILTERS.values())}. Repeatable."

    @help.setter  # noqa: A003  as click calls it
    def help(self, _: str | None) -> None:
        """Ignore the one that an option is made with."""


filter_option = click.option(
    "--filter", "filters", cls=_FilterOption, metavar="NAME=VALUE", multiple=True, callback=_parse_filters
)


def filter_query(filters: Filters) -> dict[str, Sequence[str]]:
    """Return the filters as query parameters of `Client`; a repeated one has several values."""
    query: dict[str, list[str]] = {}
    for name, content in filters:
        query.setdefault(name, []).append(content)
    return {**query}


class JobQuery(NamedTuple):
    """Which jobs, and at most how many (0 = all)."""

    parameters: Mapping[str, Any]
    max_rows: int


class JobQueryResult(NamedTuple):
    """Jobs with their statuses, and whether there are more."""

    rows: Sequence[Mapping[str, Any]]
    has_more: bool


async def fetch(client: Client, query: JobQuery) -> JobQueryResult:
    """Fetch the jobs that match now, and their statuses."""
    limit = min(_PAGE_SIZE, query.max_rows + 1 if query.max_rows else _PAGE_SIZE)
    parameters = {**query.parameters, "limit": limit}
    jobs = await _take(client.jobs(**parameters), query.max_rows)
    statuses = await _take(client.statuses(**parameters), query.max_rows)
    by_id = {status["job_id"]: status for status in statuses}
    # A job that ended between the two requests may match no longer, and then has no status here.
    rows = [{**_NO_STATUS, **job, **by_id.get(job["job_id"], {})} for job in jobs]
    max_rows = query.max_rows or len(rows)
    return JobQueryResult(rows[:max_rows], has_more=len(rows) > max_rows)


async def _take(rows: AsyncIterator[T], max_rows: int) -> list[T]:
    """Return at most `max_rows` rows and one more, which shows that there are more; all of them if it is 0."""
    taken: list[T] = []
    async for row in rows:
        taken.append(row)
        if len(taken) == max_rows + 1 and max_rows:
            break
    return taken
