"""Selection of jobs: the `--filter` option, and the matching jobs together with their statuses.

The service checks the filters. Must not know terminals or tables.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem

from shellrunner.client import Client

T = TypeVar("T")
Filters = tuple[tuple[str, str], ...]

_PAGE_SIZE: Final = 1000
_LABEL: Final = re.compile("^([^:=]*)=")
_ORDER_BY_STATE: Final = {
    "running": "created", "queued": "-priority,created", "waiting": "created", "done": "-created",
}  # fmt: skip
_NO_STATUS: Final = dict.fromkeys(("started", "completed", "ending", "exit_code", "signal", "cancelling"))


def _parse_filters(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Filters:
    filters = []
    for text in value:
        name, equals, content = text.partition("=")
        if not (name and equals):
            detail = f"{text!r} must be NAME=VALUE, such as state=running or label=team:web"
            raise click.BadParameter(detail, ctx, param)
        if name == "label":  # as in --label KEY=VALUE; a key has neither of both
            content = _LABEL.sub(r"\1:", content, count=1)
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

    def shell_complete(self, _ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names of the filters, or the values of one that has a few."""
        from shellrunner.model.filters import FILTERS  # noqa: PLC0415

        name, equals, begun = incomplete.partition("=")
        infos = {info.parameter: info for info in FILTERS.values()}
        if not equals:
            return [
                CompletionItem(f"{each}=", help=infos[each].description) for each in infos if each.startswith(name)
            ]
        values = infos[name].type.schema.get("items", {}).get("enum", ()) if name in infos else ()
        before, comma, begun = begun.rpartition(",")
        return [CompletionItem(f"{name}={before}{comma}{each}") for each in values if str(each).startswith(begun)]


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

    def parts(self) -> list[Mapping[str, Any]]:
        """Return the queries by whose answers, one after the other, the jobs are in order.

        That is the requested order, or else: what runs, what starts next, what waits, and the latest that are done.
        """
        states = self.parameters.get("state", ",".join(_ORDER_BY_STATE)).split(",")
        if "sort" in self.parameters or not set(states) <= set(_ORDER_BY_STATE):
            return [self.parameters]
        ordered = [state for state in _ORDER_BY_STATE if state in states]
        return [{**self.parameters, "state": state, "sort": _ORDER_BY_STATE[state]} for state in ordered]


class JobQueryResult(NamedTuple):
    """Jobs with their statuses, and whether there are more."""

    rows: Sequence[Mapping[str, Any]]
    has_more: bool


async def fetch(client: Client, query: JobQuery) -> JobQueryResult:
    """Fetch the jobs that match now, and their statuses."""
    rows: dict[int, Mapping[str, Any]] = {}  # by id: a job that changes its state meanwhile is in two answers
    for part in query.parts():
        missing = query.max_rows + 1 - len(rows) if query.max_rows else 0
        if missing == 0 and query.max_rows:
            break
        rows |= {row["job_id"]: row for row in await _fetch_part(client, part, missing) if row["job_id"] not in rows}
    found = list(rows.values())
    max_rows = query.max_rows or len(found)
    return JobQueryResult(found[:max_rows], has_more=len(found) > max_rows)


async def fetch_by_id(client: Client, ids: Sequence[int]) -> list[Mapping[str, Any]]:
    """Fetch these jobs and their statuses, in the order of their ids here."""
    return [{**_NO_STATUS, **await client.job(each), **await client.status(each)} for each in ids]


async def _fetch_part(client: Client, parameters: Mapping[str, Any], count: int) -> list[Mapping[str, Any]]:
    """Return at most `count` jobs with their statuses; all of them if it is 0."""
    parameters = {**parameters, "limit": min(_PAGE_SIZE, count or _PAGE_SIZE)}
    jobs = await _take(client.jobs(**parameters), count)
    if not jobs:
        return []
    statuses = await _take(client.statuses(**parameters), count)
    by_id = {status["job_id"]: status for status in statuses}
    # A job that ended between the two requests may match no longer, and then has no status here.
    return [{**_NO_STATUS, **job, **by_id.get(job["job_id"], {})} for job in jobs]


async def _take(rows: AsyncIterator[T], count: int) -> list[T]:
    """Return at most `count` rows; all of them if it is 0."""
    taken: list[T] = []
    async for row in rows:
        taken.append(row)
        if len(taken) == count:
            break
    return taken
