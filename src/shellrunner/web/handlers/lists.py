"""Lists: which jobs a query means and in which order, and one page of them as a document.

Used by the resources; what a row says is theirs. `filters` serves whatever else takes the filters of a list.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from shellrunner.errors import BadParameter
from shellrunner.model import Ending, Job, State
from shellrunner.store import Filters, Position, Sort
from shellrunner.store.pagination import Order, SortKey, position_after
from shellrunner.web.app_keys import STORE
from shellrunner.web.handlers import cursors
from shellrunner.web.http import parameters, responses
from shellrunner.wire import documents, json_codec

FILTERS: Final = (
    "q state ending exit_code queue label created_after created_before completed_after completed_before"
    " min_duration max_duration"
)
PARAMETERS: Final = f"{FILTERS} sort fields limit cursor"
FULL: Final = 1 << 22  # bytes after which a page ends early; its first row may be larger

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A list: the key of its rows, the fields that they have, and what they can be sorted by."""

    name: str
    fields: frozenset[str]
    keys: tuple[SortKey, ...] = (SortKey.CREATED, SortKey.PRIORITY, SortKey.QUEUE)
    with_result: bool = False


JOBS: Final = Kind("jobs", documents.Job.__required_keys__)
STATUSES: Final = Kind("statuses", documents.Status.__required_keys__)
RESULTS: Final = Kind("results", documents.Result.__required_keys__, tuple(SortKey), with_result=True)


def filters(request: web.Request, *, with_result: bool = False) -> Filters:
    """Which jobs are meant."""
    return Filters(
        text=request.query.get("q") or None,
        states=parameters.comma_separated(request, "state", State, ", ".join(State)),
        endings=parameters.comma_separated(request, "ending", Ending, ", ".join(Ending)),
        exit_codes=parameters.comma_separated(
            request, "exit_code", parameters.parse_exit_code, "the numbers from 0 to 255"
        ),
        queues=parameters.comma_separated(request, "queue", parameters.parse_name, "the queues' names"),
        labels=parameters.labels(request, "label"),
        created_from=parameters.timestamp(request, "created_after"),
        created_until=parameters.timestamp(request, "created_before"),
        completed_from=parameters.timestamp(request, "completed_after"),
        completed_until=parameters.timestamp(request, "completed_before"),
        min_duration=parameters.duration(request, "min_duration"),
        max_duration=parameters.duration(request, "max_duration"),
        with_result=with_result,
    )


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list, as it was asked for."""

    kind: Kind
    filters: Filters
    sort: Sort
    fields: frozenset[str]
    limit: int
    after: Position | None

    @classmethod
    def asked(cls, request: web.Request, kind: Kind) -> "Listing":
        """Read which page is meant."""
        wanted, sort = filters(request, with_result=kind.with_result), _sort(request, kind)
        limit = parameters.integer(request, "limit", minimum=1, maximum=1000) or 100
        cursor = request.query.get("cursor")
        after = None if cursor is None else cursors.read(cursor, wanted, sort)
        return cls(kind, wanted, sort, _fields(request, kind), limit, after)

    def shows(self, *fields: str) -> bool:
        """Whether a row has one of these fields."""
        return not self.fields.isdisjoint(fields)

    async def answer(self, request: web.Request, row: Callable[[Job], Awaitable[Row | None]]) -> web.StreamResponse:
        """Answer with the page; `row` is the document of a job, None if there is none any more."""
        page = await request.app[STORE].page(self.filters, self.sort, limit=self.limit, after=self.after)
        rows: list[Row] = []
        following, room = page.next, FULL
        for number, job in enumerate(page.jobs):
            document = self._cut(await row(job))
            room -= len(json_codec.dumps(document))
            if room < 0 and rows:
                following = position_after(page.jobs[number - 1], self.sort)
                break
            if document is not None:
                rows.append(document)
        link = None if following is None else self._link(request, following)
        headers = {"Link": f'<{link}>; rel="next"'} if link else {}
        return await responses.ok(request, {self.kind.name: rows, "next": link}, headers)

    def _cut(self, document: Row | None) -> Row | None:
        if document is None or self.fields == self.kind.fields:
            return document
        return {name: value for name, value in document.items() if name in self.fields}

    def _link(self, request: web.Request, place: Position) -> str:
        given = [(name, value) for name, value in request.query.items() if name != "cursor"]
        cursor = cursors.write(self.filters, self.sort, place)
        return f"{request.path}?{urlencode([*given, ('cursor', cursor)], safe=',:')}"


def _sort(request: web.Request, kind: Kind) -> Sort:
    text = request.query.get("sort")
    if text is None:
        # Where times of creation are given, their index has what is wanted in one piece; the order is the same.
        timed = not {"created_after", "created_before"}.isdisjoint(request.query)
        return (Order(SortKey.CREATED, descending=True),) if timed else ()
    orders = {word.removeprefix("-"): word.startswith("-") for word in text.split(",")}
    for name in orders:
        if name not in kind.keys:
            raise BadParameter("sort", f"{kind.name} cannot be sorted by {name!r}, but by {', '.join(kind.keys)}")
    if len(orders) <= text.count(","):
        raise BadParameter("sort", "sort has a key twice")
    return tuple(Order(SortKey(name), descending) for name, descending in orders.items())


def _fields(request: web.Request, kind: Kind) -> frozenset[str]:
    text = request.query.get("fields")
    if text is None:
        return kind.fields
    wanted = frozenset(text.split(","))
    for name in sorted(wanted - kind.fields):
        raise BadParameter("fields", f"{kind.name} have no field {name!r}, but {', '.join(sorted(kind.fields))}")
    return wanted
