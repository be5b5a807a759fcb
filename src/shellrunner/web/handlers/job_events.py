"""The live stream of one job: replay from any position, then live output and status; `done` at the end.

Handler of /api/statuses/{id}/events; `wire.sse` has the format. Must not know how output is stored.
"""

from typing import Final

from aiohttp import web

from shellrunner.errors import BadParameter, NoSuchJob, ResultGone
from shellrunner.model import Done, Stream
from shellrunner.store import Subscription
from shellrunner.store.output.present import without
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.feeds.job_feed import JOB_FEEDS, JobFeed, Snapshot
from shellrunner.web.http import parameters
from shellrunner.web.http.streaming import STREAMS, ResponseStream, start_stream
from shellrunner.wire import serialize
from shellrunner.wire.sse import END, HEARTBEAT, RETRY, StreamCursor, event

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would collect events until its buffer is full
}


async def follow(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}/events: stream the output and every change of the status as server-sent events.

    Without an event id the stream begins with all output so far; with one, at the next byte. It is then live until
    the job is done. A client that reconnects after `done` gets 204, which stops an EventSource.
    """
    request.app[STREAMS].raise_if_closing()
    encoding = parameters.choice(request, "encoding", ("text", "base64"))
    feed = request.app[JOB_FEEDS].get(job_id(request), base64=encoding == "base64")
    with request.app[STORE].watch_output(job_id(request)) as subscription:
        snapshot = await feed.snapshot()
        cursor = await _cursor(request, feed, snapshot)
        if cursor is None:
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        stream = await start_stream(request, HEADERS, follows=True)
        if request.method != "HEAD":
            await _JobFollower(stream, feed, cursor).run(subscription, snapshot)
        return await stream.finish()


def last_event_id(request: web.Request) -> tuple[str, str]:
    """Return the name and the value of the header or, without it, of the parameter; an empty value is no id."""
    name = "Last-Event-ID" if "Last-Event-ID" in request.headers else "last_event_id"
    return name, request.headers.get(name) or request.query.get("last_event_id", "")


async def _cursor(request: web.Request, feed: JobFeed, snapshot: Snapshot) -> StreamCursor | None:
    """Return where the stream continues, or None if the client has received `done`."""
    name, text = last_event_id(request)
    if text == END and snapshot.job.done:
        return None
    if text == END:
        raise BadParameter(name, f"{name} is the id of the event done, but the job is not done")
    try:
        cursor = StreamCursor.parse(text or "0")
        await feed.framer(cursor, snapshot)
    except ValueError as error:
        raise BadParameter(name, f"{name} {error}") from None
    return cursor


class _JobFollower:
    """What one client has received so far."""

    def __init__(self, stream: ResponseStream, feed: JobFeed, cursor: StreamCursor) -> None:
        self._stream = stream
        self._feed = feed
        self._cursor = cursor
        self._status: serialize.Document = {}
        self._dropped = dict.fromkeys(Stream, 0)

    async def run(self, subscription: Subscription, snapshot: Snapshot) -> None:
        """Send everything there is, then wait for more, until the job is done or the service shuts down."""
        self._status = snapshot.status
        await self._stream.send(RETRY + snapshot.status_event)
        while True:
            await self._send_news(snapshot)
            if isinstance(snapshot.job.phase, Done):
                if self._cursor.position < snapshot.end:
                    # Never an end that looks like all of it: a client that reconnects is sent what is missing.
                    raise ConnectionAbortedError("output has got lost since it was looked for")
                done = serialize.done_event(snapshot.job, snapshot.job.phase.end)
                return await self._stream.send(event("done", done, event_id=END))
            while not await self._stream.wait_for(subscription):
                if self._stream.closing:
                    return None
                await self._stream.send(HEARTBEAT)
            try:
                snapshot = await self._feed.snapshot()
            except (NoSuchJob, ResultGone):
                return None  # deleted while it was followed: a client that reconnects gets 404 or 410

    async def _send_news(self, snapshot: Snapshot) -> None:
        while frame := await self._feed.frame(self._cursor, snapshot):
            await self._stream.send(frame.events)
            self._cursor = frame.cursor
            if frame.missing is not None:
                self._dropped = {stream: frame.missing.dropped_bytes(stream) for stream in Stream}
        if snapshot.status != self._status:
            self._status = snapshot.status
            await self._stream.send(snapshot.status_event)
        recorded, gaps = snapshot.output.volume, await snapshot.output.gaps(thorough=snapshot.job.done)
        for stream in Stream:
            dropped = without(recorded, gaps).dropped_bytes(stream)
            if dropped > self._dropped[stream]:
                self._dropped[stream] = dropped
                data = serialize.dropped_event(stream, dropped, dropped - recorded.dropped_bytes(stream))
                await self._stream.send(event("dropped", data))
