"""A job's output as plain text, for people with curl: all of it or its last lines, now or until the end.

Handler of /api/statuses/{id}/output. Must not know how output is stored.
"""

from collections.abc import Callable
from typing import Final

from aiohttp import web

from shellrunner.errors import BadParameter
from shellrunner.model import Done, Ending, Job, Stream
from shellrunner.results import read_whole
from shellrunner.store import Output, Subscription
from shellrunner.store.output.present import PresentBytes, measure
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.feeds.job_feed import JOB_FEEDS, JobFeed, Snapshot
from shellrunner.web.handlers import output_search
from shellrunner.web.handlers.result_bytes import SANDBOX
from shellrunner.web.http import parameters
from shellrunner.web.http.responses import MAX_BUFFERED
from shellrunner.web.http.server_protocol import connection_identity
from shellrunner.web.http.streaming import READ_SIZE, STREAMS, ResponseStream, start_stream
from shellrunner.wire.text import label, line_ends

_HEADERS: Final = {
    **SANDBOX,
    "Cache-Control": "no-store",
    "Accept-Ranges": "none",  # `from` is for that, since there may be more of it a moment later
    "X-Accel-Buffering": "no",  # nginx would collect output until its buffer is full
}


class _LostBytes(OSError):
    """Bytes that were there when the files were looked at are missing at this position."""

    def __init__(self, position: int) -> None:
        super().__init__(f"output is missing from position {position} on")
        self.position = position


async def _present(output: Output, stream: Stream | None, *, thorough: bool) -> PresentBytes:
    return PresentBytes(output, await output.gaps(thorough=thorough), stream)


async def _start_of_tail(present: PresentBytes, lines: int, charset: str) -> int:
    """Return where the last `lines` lines begin, as tail(1) counts: a newline at the very end begins no line."""
    end = at = present.size
    if lines == 0:
        return end
    while at > 0:
        first = max(0, at - 1 - (at - 1) % READ_SIZE)
        data = await read_whole(present.read, first, at - first)
        if len(data) < at - first:
            raise _LostBytes(present.position_of(first + len(data)))
        for line_end in reversed(line_ends(data, first, charset)):
            lines -= line_end < end
            if lines == 0:
                return line_end
        at = first
    return 0


async def show(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}/output: return the output so far as plain text, or follow it until the job is done.

    Both streams in arrival order, or one of them. With `follow` the response ends when the job does. `from` counts
    the bytes of this response, so that a client resumes at the number of those that it has; `Range` is ignored.

    With `find` the response is JSON instead: the places where these bytes have a text, in any case unless
    `match_case` is set, in order from `from` on or, with `backward`, before it. A page may have fewer places than
    `limit`, or none, and a `next`: a search answers after a second.
    """
    request.app[STREAMS].raise_if_closing()
    if "find" in request.query:
        return await output_search.find(request, _HEADERS)
    for parameter in output_search.SEARCH_PARAMETERS:
        if parameter in request.query:
            raise BadParameter(parameter, f"{parameter} requires find")
    name = parameters.choice(request, "stream", tuple(Stream))
    stream = None if name is None else Stream(name)
    start = parameters.integer(request, "from", minimum=0, maximum=10**15)
    lines = parameters.integer(request, "tail", minimum=0, maximum=10**15)
    if start is not None and lines is not None:
        raise BadParameter("tail", "from and tail both say where to begin: give one of them")
    if not parameters.flag(request, "follow"):
        return await _show_now(request, stream, start, lines)
    feed = request.app[JOB_FEEDS].get(job_id(request))
    with request.app[STORE].watch_output(job_id(request)) as subscription:
        snapshot = await feed.first_snapshot()
        snapshot = await feed.caught_up(snapshot, subscription, _reaches(stream, start or 0))
        present, at = await _find_start(snapshot.job, snapshot.output, stream, start, lines)
        response = await start_stream(request, _headers(snapshot.job), follows=True)
        if request.method != "HEAD":
            await _send(response, present, at)
            await _follow(response, stream, feed, subscription, snapshot)
        return await response.finish()


def _reaches(stream: Stream | None, start: int) -> Callable[[Output], bool]:
    return lambda output: measure(output.volume, stream) >= start


async def _show_now(
    request: web.Request, stream: Stream | None, start: int | None, lines: int | None
) -> web.StreamResponse:
    """Respond with the output so far; at once if it is short, as a stream if it is long."""
    store, number = request.app[STORE], job_id(request)
    job, output = await store.job(number), await store.output(number)
    if start is not None and output.lags and measure(output.volume, stream) < start:
        feed = request.app[JOB_FEEDS].get(number)
        with store.watch_output(number) as subscription:
            snapshot = await feed.caught_up(await feed.first_snapshot(), subscription, _reaches(stream, start))
        job, output = snapshot.job, snapshot.output
    present, at = await _find_start(job, output, stream, start, lines)
    size = present.size - at
    headers = {**_headers(job), "Content-Length": str(size)}
    if size <= MAX_BUFFERED and request.method != "HEAD":
        body = await read_whole(present.read, at, size)
        connection_identity(request).raise_if_revoked()
        if len(body) == size:
            return web.Response(body=body, headers=headers)
    response = await start_stream(request, headers)
    if request.method != "HEAD":
        await _send(response, present, at)
    return await response.finish()


async def _find_start(
    job: Job, output: Output, stream: Stream | None, start: int | None, lines: int | None
) -> tuple[PresentBytes, int]:
    """Return what is there, and where in it the response begins.

    Raises:
        BadParameter: `start` is behind its end.
    """
    # The end of a long output that is being written costs no more than that, unless something is missing there.
    present = await _present(output, stream, thorough=lines is None or job.done)
    at = start or 0
    if lines is not None:
        try:
            at = await _start_of_tail(present, lines, job.spec.encoding)
        except _LostBytes:
            present = await _present(output, stream, thorough=True)
            at = await _start_of_tail(present, lines, job.spec.encoding)
    if at > present.size and isinstance(job.phase, Done) and job.phase.end.ending is Ending.LOST:
        at = present.size  # what the client has was lost later, as its host was
    if at > present.size:
        raise BadParameter("from", f"from must be at most {present.size}, which is how many bytes there are")
    return present, at


def _headers(job: Job) -> dict[str, str]:
    return {**_HEADERS, "Content-Type": f"text/plain; charset={label(job.spec.encoding)}"}


async def _send(response: ResponseStream, present: PresentBytes, at: int) -> None:
    while at < present.size:
        data = await present.read(at, min(READ_SIZE, present.size - at))
        if not data:
            raise _LostBytes(present.position_of(at))
        await response.send(data)
        at += len(data)


async def _follow(
    response: ResponseStream, stream: Stream | None, feed: JobFeed, subscription: Subscription, snapshot: Snapshot
) -> None:
    while not snapshot.job.done:
        sent = measure(snapshot.output.volume, stream)
        while not await response.wait_for(subscription):
            if response.closing:
                # A proper end would mean that the job has ended.
                raise ConnectionAbortedError("the service is shutting down")
        snapshot = await feed.snapshot()
        present = await _present(snapshot.output, stream, thorough=snapshot.job.done)
        try:
            await _send(response, present, present.place_of(sent))
        except _LostBytes as error:
            present = await _present(snapshot.output, stream, thorough=True)
            await _send(response, present, present.place_of(error.position))
