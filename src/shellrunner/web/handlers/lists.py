"""Lists: which jobs a query selects, in which order, and one page of them as a document.

Used by the handlers of each list, which make the rows. `filters` also serves other routes with the same filters.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from shellrunner.errors import BadParameter
from shellrunner.model.filters import FILTERS, Filters
from shellrunner.store import Page, Position, Sort
from shellrunner.store.pagination import ListedJob, Order, SortKey
from shellrunner.web.app_keys import STORE
from shellrunner.web.handlers import cursors
from shellrunner.web.handlers.row_cache import ROW_CACHE, RowKey
from shellrunner.web.http import parameters, responses
from shellrunner.wire import documents, json_codec

FILTER_PARAMETERS: Final = " ".join(info.parameter for info in FILTERS.values())
MAX_FIELDS: Final = 1000  # in one request
PARAMETERS: Final = f"{FILTER_PARAMETERS} sort fields limit cursor"
MAX_PAGE_SIZE: Final = 1 << 22  # bytes after which a page ends early; its first row may be larger
_ROWS_AT_ONCE: Final = 100  # that are made before it is seen whether the page is full


class Row(NamedTuple):
    """The document of a listed job; None if it was deleted meanwhile.

    is_final: whether it follows from what was read with the list alone, so that an equal job has an equal document.
    """

    document: Mapping[str, Any] | None
    is_final: bool


MakeRows = Callable[[Sequence[ListedJob]], Awaitable[Sequence[Row]]]


@dataclass(frozen=True, slots=True)
class ListResource:
    """A list of the API: its name, the fields of its rows, and the keys that they can be sorted by."""

    name: str
    fields: frozenset[str]
    sort_keys: tuple[SortKey, ...] = (SortKey.CREATED, SortKey.PRIORITY, SortKey.QUEUE, SortKey.NAME)
    with_result: bool = False
    with_spec: bool = True


JOBS: Final = ListResource("jobs", documents.Job.__required_keys__)
STATUSES: Final = ListResource("statuses", documents.Status.__required_keys__, with_spec=False)
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

    async def respond(self, request: web.Request, make_rows: MakeRows) -> web.StreamResponse:
        """Respond with the page; `make_rows` is asked for the rows that are not kept from earlier pages."""
        page = await request.app[STORE].page(
            self.filters, self.sort, limit=self.limit, after=self.after, with_spec=self.resource.with_spec
        )
        rows, next_position = await self._fill(request, page, make_rows)
        link = None if next_position is None else self._link(request, next_position)
        headers = {"Link": f'<{link}>; rel="next"'} if link else {}
        content = b'{"%b":[%b],"next":%b}\n' % (self.resource.name.encode(), b",".join(rows), _dumps(link))
        return await responses.ok_bytes(request, content, headers)

    async def _fill(
        self, request: web.Request, page: Page, make_rows: MakeRows
    ) -> tuple[list[bytes], Position | None]:
        """Return as many rows of the page as may be sent, and where the next page begins."""
        rows: list[bytes] = []
        bytes_left = MAX_PAGE_SIZE
        for begin in range(0, len(page.jobs), _ROWS_AT_ONCE):
            jobs = page.jobs[begin : begin + _ROWS_AT_ONCE]
            for number, row in enumerate(await self._rows(request, jobs, make_rows), begin):
                bytes_left -= len(row) + 1  # and a comma
                if bytes_left < 0 and rows:
                    return rows, page.positions[number - 1]
                if row:
                    rows.append(row)
        return rows, page.next

    async def _rows(self, request: web.Request, jobs: Sequence[ListedJob], make_rows: MakeRows) -> list[bytes]:
        """Return each job's row as JSON; empty if it was deleted meanwhile."""
        cache = request.app[ROW_CACHE]
        rows = [cache.get(self._key(job)) for job in jobs]
        unknown = [number for number, row in enumerate(rows) if row is None]
        made = await make_rows([jobs[number] for number in unknown]) if unknown else ()
        for number, row in zip(unknown, made, strict=True):
            document = self._select_fields(row.document)
            rows[number] = found = _dumps(document) if document is not None else b""
            if found and row.is_final:
                cache.put(self._key(jobs[number]), found)
        return [row or b"" for row in rows]

    def _key(self, job: ListedJob) -> RowKey:
        return RowKey((self.resource.name, self.fields), job)

    def _select_fields(self, document: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if document is None or self.fields == self.resource.fields:
            return document
        return {name: value for name, value in document.items() if name in self.fields}

    def _link(self, request: web.Request, after: Position) -> str:
        query = [(name, value) for name, value in request.query.items() if name != "cursor"]
        cursor = cursors.encode(self.filters, self.sort, after)
        return f"{request.path}?{urlencode([*query, ('cursor', cursor)], safe=',:')}"


def _dumps(document: Any) -> bytes:
    return json_codec.dumps(document).removesuffix(b"\n")


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
