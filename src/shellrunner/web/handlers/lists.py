"""Lists: which jobs a query selects, in which order, and one page of them as a document.

Used by the handlers of each list, which make the rows. `filters` also serves other routes with the same filters.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from shellrunner.errors import BadParameter
from shellrunner.model import Job
from shellrunner.model.filters import FILTERS, Filters
from shellrunner.store import Position, Sort
from shellrunner.store.pagination import Order, SortKey, position_after
from shellrunner.web.app_keys import STORE
from shellrunner.web.handlers import cursors
from shellrunner.web.http import parameters, responses
from shellrunner.wire import documents, json_codec

FILTER_PARAMETERS: Final = " ".join(info.parameter for info in FILTERS.values())
MAX_FIELDS: Final = 1000  # in one request
PARAMETERS: Final = f"{FILTER_PARAMETERS} sort fields limit cursor"
MAX_PAGE_SIZE: Final = 1 << 22  # bytes after which a page ends early; its first row may be larger

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ListResource:
    """A list of the API: its name, the fields of its rows, and the keys that they can be sorted by."""

    name: str
    fields: frozenset[str]
    sort_keys: tuple[SortKey, ...] = (SortKey.CREATED, SortKey.PRIORITY, SortKey.QUEUE)
    with_result: bool = False


JOBS: Final = ListResource("jobs", documents.Job.__required_keys__)
STATUSES: Final = ListResource("statuses", documents.Status.__required_keys__)
RESULTS: Final = ListResource("results", documents.Result.__required_keys__, tuple(SortKey), with_result=True)


def filters(request: web.Request, *, with_result: bool = False) -> Filters:
    """Return the filters of the query; absent ones match any job."""
    values = {name: parameters.filter_value(request, info) for name, info in FILTERS.items()}
    given = {name: value for name, value in values.items() if value is not None}
    return Filters(**given, with_result=with_result)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The page of a list that a request selects."""

    resource: ListResource
    filters: Filters
    sort: Sort
    fields: frozenset[str]
    limit: int
    after: Position | None

    @classmethod
    def parse(cls, request: web.Request, resource: ListResource) -> "PageRequest":
        """Parse the query of a request."""
        selected, sort = filters(request, with_result=resource.with_result), _sort(request, resource)
        limit = parameters.integer(request, "limit", minimum=1, maximum=1000) or 100
        cursor = request.query.get("cursor")
        after = None if cursor is None else cursors.decode(cursor, selected, sort)
        return cls(resource, selected, sort, _fields(request, resource), limit, after)

    def includes(self, *fields: str) -> bool:
        """Return whether rows have one of these fields."""
        return not self.fields.isdisjoint(fields)

    async def respond(self, request: web.Request, row: Callable[[Job], Awaitable[Row | None]]) -> web.StreamResponse:
        """Respond with the page; `row` returns the document of a job, or None if it was deleted meanwhile."""
        page = await request.app[STORE].page(self.filters, self.sort, limit=self.limit, after=self.after)
        rows: list[Row] = []
        next_position, bytes_left = page.next, MAX_PAGE_SIZE
        for number, job in enumerate(page.jobs):
            document = self._select_fields(await row(job))
            bytes_left -= len(json_codec.dumps(document))
            if bytes_left < 0 and rows:
                next_position = position_after(page.jobs[number - 1], self.sort)
                break
            if document is not None:
                rows.append(document)
        link = None if next_position is None else self._link(request, next_position)
        headers = {"Link": f'<{link}>; rel="next"'} if link else {}
        return await responses.ok(request, {self.resource.name: rows, "next": link}, headers)

    def _select_fields(self, document: Row | None) -> Row | None:
        if document is None or self.fields == self.resource.fields:
            return document
        return {name: value for name, value in document.items() if name in self.fields}

    def _link(self, request: web.Request, after: Position) -> str:
        query = [(name, value) for name, value in request.query.items() if name != "cursor"]
        cursor = cursors.encode(self.filters, self.sort, after)
        return f"{request.path}?{urlencode([*query, ('cursor', cursor)], safe=',:')}"


def _sort(request: web.Request, resource: ListResource) -> Sort:
    text = request.query.get("sort")
    if text is None:
        # With bounds on the time of creation its index has the selected rows in one range; the order is the same.
        by_time = not {"created_after", "created_before"}.isdisjoint(request.query)
        return (Order(SortKey.CREATED, descending=True),) if by_time else ()
    orders = {word.removeprefix("-"): word.startswith("-") for word in text.split(",")}
    for name in orders:
        if name not in resource.sort_keys:
            keys = ", ".join(resource.sort_keys)
            raise BadParameter("sort", f"{resource.name} cannot be sorted by {name!r}: expected some of {keys}")
    if len(orders) <= text.count(","):
        raise BadParameter("sort", "sort names a key twice")
    return tuple(Order(SortKey(name), descending) for name, descending in orders.items())


def _fields(request: web.Request, resource: ListResource) -> frozenset[str]:
    text = request.query.get("fields")
    if text is None:
        return resource.fields
    names = text.split(",")
    if len(names) > MAX_FIELDS:
        raise BadParameter("fields", f"fields must have at most {MAX_FIELDS} names")
    wanted = frozenset(names)
    for name in sorted(wanted - resource.fields):
        fields = ", ".join(sorted(resource.fields))
        raise BadParameter("fields", f"{resource.name} have no field {name!r}: expected some of {fields}")
    return wanted
