"""Find a text in a job's output, and find its lines: where they are, so that a viewer can jump there.

`find` serves /api/statuses/{id}/output?find=…, `line` is the handler of /api/statuses/{id}/output/line. Output is
read in blocks, which are searched on a thread, one block of all searches at a time; after a second, or sooner, a
search answers with what it has found, and where to go on. Must not know how output is stored.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlencode

from aiohttp import web

from shellrunner.errors import BadParameter
from shellrunner.model import Job, Stream
from shellrunner.store.output.present import PresentBytes
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.feeds.line_index import (
    BLOCK_SIZE,
    LINE_INDEXES,
    BlockReader,
    LineIndex,
    MissingBytesError,
    count_in_slices,
    release_gil,
)
from shellrunner.web.http import parameters, responses
from shellrunner.web.http.server_protocol import connection_identity
from shellrunner.web.http.streaming import STREAMS
from shellrunner.wire import documents
from shellrunner.wire.text_search import Span, TextSearch, count_lines

T = TypeVar("T")

MAX_TEXT: Final = 1000  # characters that are looked for
SEARCH_PARAMETERS: Final = ("match_case", "backward", "limit")
_MAX_SECONDS: Final = 1.0  # after which a search answers
_MAX_SECONDS_ONCE_FOUND: Final = 0.2  # the same, if it has found something: the first places are wanted soon
_MAX_BLOCK_SECONDS: Final = 0.2  # that a search works on one block before others do
_CONTEXT: Final = 1024  # bytes around a match, of which its line is shown
_MAX_SHOWN: Final = 200  # characters of the line before and after a match
_MAX_POSITION: Final = 10**15


class _SearchedOutput(NamedTuple):
    """The output that is searched, and what is known of its lines."""

    job: Job
    present: PresentBytes
    stream: Stream | None
    line_index: LineIndex
    reader: BlockReader

    @property
    def size(self) -> int:
        return self.present.size

    async def lines_before(self, place: int) -> int:
        return await self.line_index.lines_before(self.reader, place)

    def event_id(self, place: int) -> str | None:
        return str(self.present.position_of(place)) if self.stream is None and self.size else None


@dataclass(frozen=True, slots=True)
class _Query:
    """What a request looks for, from where on, and how many places at most."""

    search: TextSearch
    start: int | None
    backward: bool
    limit: int


async def find(request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
    """Respond with the places where the output has a text."""
    text = request.query["find"]
    for name in ("follow", "tail"):
        if name in request.query:
            raise BadParameter(name, f"find and {name} cannot be combined")
    if not 0 < len(text) <= MAX_TEXT:
        raise BadParameter("find", f"find must be a text of 1 to {MAX_TEXT} characters")
    start = parameters.integer(request, "from", minimum=0, maximum=_MAX_POSITION)
    backward, match_case = parameters.flag(request, "backward"), parameters.flag(request, "match_case")
    limit = parameters.integer(request, "limit", minimum=1, maximum=1000) or 100

    async def search(source: _SearchedOutput) -> documents.OutputMatches:
        _check_start(start, source)
        search = TextSearch(text, source.job.spec.encoding, match_case=match_case)
        return await _search(request, source, _Query(search, start, backward, limit))

    return await _respond(request, search, headers)


async def line(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}/output/line: return where a line of the output begins, or which line has a byte.

    Without `number` and `from` it is the last line, as it is for a larger number.
    """
    request.app[STREAMS].raise_if_closing()
    number = parameters.integer(request, "number", minimum=1, maximum=_MAX_POSITION)
    start = parameters.integer(request, "from", minimum=0, maximum=_MAX_POSITION)
    if number is not None and start is not None:
        raise BadParameter("number", "number and from cannot be combined")

    async def locate(source: _SearchedOutput) -> documents.OutputLine:
        _check_start(start, source)
        return await _locate(source, number, start)

    return await _respond(request, locate, {})


def _check_start(start: int | None, source: _SearchedOutput) -> None:
    if start is not None and start > source.size:
        raise BadParameter("from", f"from must be at most {source.size}, which is how many bytes there are")


async def _respond(
    request: web.Request, make: Callable[[_SearchedOutput], Awaitable[T]], headers: dict[str, str]
) -> web.StreamResponse:
    """Respond with a document that is made of the output as it is now; look again if something is missing by then."""
    try:
        document = await make(await _open(request, thorough=False))
    except MissingBytesError:
        document = await make(await _open(request, thorough=True))
    connection_identity(request).raise_if_revoked()
    return await responses.no_store(request, 200, document, headers)


async def _open(request: web.Request, *, thorough: bool) -> _SearchedOutput:
    store, number = request.app[STORE], job_id(request)
    name = parameters.choice(request, "stream", tuple(Stream))
    stream = None if name is None else Stream(name)
    job, output = await store.job(number), await store.output(number)
    gaps = await output.gaps(thorough=thorough or job.done)
    indexes = request.app[LINE_INDEXES]
    index = indexes.get((number, stream, tuple(gaps)), job.spec.encoding)
    present = PresentBytes(output, gaps, stream)
    return _SearchedOutput(job, present, stream, index, BlockReader(present, indexes.semaphore))


# Lines -------------------------------------------------------------------------------------------------------------


async def _locate(source: _SearchedOutput, number: int | None, start: int | None) -> documents.OutputLine:
    lines = await source.line_index.lines(source.reader)
    if number is None:
        number = lines if start is None else await source.lines_before(start) + 1
    number = max(1, min(number, lines))
    position = await source.line_index.line_begin(source.reader, number)
    return {
        "line": number,
        "position": position,
        "event_id": source.event_id(position),
        "lines": lines,
        "size": source.size,
    }


# Search ------------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Where matches may begin, at most a block: from `begin` to `end`."""

    begin: int
    end: int

    @classmethod
    def after(cls, at: int, size: int) -> "_Part":
        """Return the rest of the block at a place."""
        return cls(at, min((at // BLOCK_SIZE + 1) * BLOCK_SIZE, size))

    @classmethod
    def before(cls, at: int) -> "_Part":
        """Return the beginning of the block before a place, up to that."""
        return cls((at - 1) // BLOCK_SIZE * BLOCK_SIZE, at)

    @property
    def is_block(self) -> bool:
        return self.begin % BLOCK_SIZE == 0 and self.end - self.begin == BLOCK_SIZE


class _Found(NamedTuple):
    """The matches in a part, up to where it was searched, and how many lines end in all of it."""

    matches: list[documents.OutputMatch]
    searched: int
    lines: int


async def _search(request: web.Request, source: _SearchedOutput, query: _Query) -> documents.OutputMatches:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    at, end = (source.size, 0) if query.backward else (0, source.size)
    if query.start is not None:
        at = query.start
    matches: list[documents.OutputMatch] = []
    part = None
    while at != end and len(matches) < query.limit:
        if part is not None and loop.time() - begun > (_MAX_SECONDS_ONCE_FOUND if matches else _MAX_SECONDS):
            break
        part = _Part.before(at) if query.backward else _Part.after(at, source.size)
        found = await _search_part(source, query, part, query.limit - len(matches))
        matches += found.matches
        at = found.searched
        if matches and len(matches) == query.limit:
            at = matches[-1]["position"] + (0 if query.backward else matches[-1]["length"])
        elif found.matches and not query.backward:  # the last one may reach into the next part
            at = max(at, matches[-1]["position"] + matches[-1]["length"])
    is_ended = at == end
    if is_ended and not query.backward and not source.job.done:
        at = max(query.start or 0, at - query.search.max_length + 1)  # what is written next may complete a match
    return _document(request, source, matches, at, is_ended=is_ended)


async def _search_part(source: _SearchedOutput, query: _Query, part: _Part, wanted: int) -> _Found:
    lines_before = await source.lines_before(part.begin)
    offset = max(0, part.begin - _CONTEXT)
    stop = min(part.end + query.search.max_length + _CONTEXT, source.size)
    charset = source.line_index.charset

    def search(data: bytes) -> _Found:
        begin, end = part.begin - offset, part.end - offset
        spans, searched = _find(query, data, (begin, end), offset, wanted)
        lines = lines_before - count_lines(data[:begin], offset, charset)
        matches = _describe(source, spans, data, offset, lines)
        counted = count_in_slices(data[begin:end], charset) if part.is_block else 0
        return _Found(matches, offset + searched, counted)

    found = await source.reader.process(offset, stop - offset, search)
    if part.is_block:
        source.line_index.record_block(part.begin // BLOCK_SIZE, found.lines)
    return found


def _find(query: _Query, data: bytes, bounds: tuple[int, int], offset: int, wanted: int) -> tuple[list[Span], int]:
    """Return the first matches that begin between these bounds; with `backward` the last, in reverse order.

    Also return up to where it was searched, which is less than all of it if that takes too long.
    """
    size = query.search.slice_size
    slices = range(bounds[0], bounds[1], size)
    until = time.monotonic() + _MAX_BLOCK_SECONDS
    found: list[Span] = []
    at = searched = bounds[0]
    for begin in reversed(slices) if query.backward else slices:
        end = min(begin + size, bounds[1])
        spans = query.search.find(data, max(at, begin), end, offset=offset)
        if query.backward:
            found += reversed(deque(spans, maxlen=wanted - len(found)))
            searched = begin
        else:
            found += islice(spans, wanted - len(found))
            at, searched = found[-1].end if found else at, end
        if len(found) == wanted or time.monotonic() > until:
            break
        release_gil()
    return found, searched


def _describe(
    source: _SearchedOutput, spans: list[Span], data: bytes, offset: int, lines: int
) -> list[documents.OutputMatch]:
    """Return the documents of matches in `data`, before which so many lines end, in the order of the matches."""
    charset = source.line_index.charset
    counted = 0
    described: dict[Span, documents.OutputMatch] = {}
    for span in sorted(spans):
        lines += count_lines(data[counted : span.begin], offset + counted, charset)
        counted = span.begin
        before = data[max(0, span.begin - _CONTEXT) : span.begin].decode(charset, "replace")
        after = data[span.end : span.end + _CONTEXT].decode(charset, "replace")
        position = offset + span.begin
        described[span] = {
            "position": position,
            "length": span.end - span.begin,
            "event_id": source.event_id(position),
            "line": lines + 1,
            "before": before.rpartition("\n")[2][-_MAX_SHOWN:],
            "text": data[span.begin : span.end].decode(charset, "replace"),
            "after": after.partition("\n")[0].removesuffix("\r")[:_MAX_SHOWN],
        }
    return [described[span] for span in spans]


def _document(
    request: web.Request, source: _SearchedOutput, matches: list[documents.OutputMatch], at: int, *, is_ended: bool
) -> documents.OutputMatches:
    query = [(name, value) for name, value in request.query.items() if name != "from"]
    link = None if is_ended else f"{request.path}?{urlencode([*query, ('from', at)])}"
    return {"matches": matches, "next": link, "searched": at, "size": source.size}
