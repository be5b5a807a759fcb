"""The live stream of one job: replay from any position, then live output and status; `done` at the end.

Handler of /api/statuses/{id}/events; `wire.sse` has the format. Must not know how output is stored.
"""

from contextlib import suppress
from typing import Final

from aiohttp import web

from shellrunner.errors import BadParameter, NoSuchJob, ResultGone
from shellrunner.model import Done, Ending
from shellrunner.store import Subscription
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.feeds.job_feed import JOB_FEEDS, JobFeed, Received, Snapshot
from shellrunner.web.feeds.writers import WRITERS
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
    the job is done. A client that reconnects after `done` gets 204, which stops an EventSource. `writer` is the name
    under which the client may type (see POST /api/jobs/{id}/stdin).
    """
    request.app[STREAMS].raise_if_closing()
    encoding = parameters.choice(request, "encoding", ("text", "base64"))
    feed = request.app[JOB_FEEDS].get(job_id(request), base64=encoding == "base64")
    writer = parameters.name(request, "writer")
    with (
        request.app[STORE].watch_output(job_id(request)) as subscription,
        request.app[WRITERS].following(job_id(request), writer),
    ):
        snapshot = await feed.first_snapshot()
        position = _position(request)
        snapshot = await feed.caught_up(snapshot, subscription, lambda output: output.volume.stored >= position)
        cursor = await _cursor(request, feed, snapshot)
        if cursor is None:
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        stream = await start_stream(request, HEADERS, follows=True)
        if request.method != "HEAD":
            await _JobFollower(stream, feed, Received(cursor, snapshot.status)).run(subscription, snapshot)
        return await stream.finish()


def _position(request: web.Request) -> int:
    """Return up to where the client has the output, as far as its event id says."""
    with suppress(ValueError):
        return StreamCursor.parse(last_event_id(request)[1] or "0").position
    return 0


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
        if cursor.position > snapshot.end and _is_lost(snapshot):
            return StreamCursor(snapshot.end)  # what the client has was lost later, as its host was
        await feed.framer(cursor, snapshot)
    except ValueError as error:
        raise BadParameter(name, f"{name} {error}") from None
    return cursor


def _is_lost(snapshot: Snapshot) -> bool:
    return isinstance(snapshot.job.phase, Done) and snapshot.job.phase.end.ending is Ending.LOST


class _JobFollower:
    """One client, and what it has received so far."""

    def __init__(self, stream: ResponseStream, feed: JobFeed, received: Received) -> None:
        self._stream, self._feed, self._received = stream, feed, received

    async def run(self, subscription: Subscription, snapshot: Snapshot) -> None:
        """Send everything there is, then whatever comes, until the job is done or the service shuts down."""
        await self._stream.send(RETRY + snapshot.status_event)
        while True:
            async for events, received in self._feed.updates(self._received, snapshot):
                await self._stream.send(events)
                self._received = received
            if isinstance(snapshot.job.phase, Done):
                if self._received.cursor.position < snapshot.end:
                    # Never an end that looks like all of it: a client that reconnects is sent what is missing.
                    raise ConnectionAbortedError("output has got lost since it was looked for")
                done = serialize.done_event(snapshot.job, snapshot.job.phase.end)
                return await self._stream.send(event("done", done, event_id=END))
            self._received = await self._feed.broadcast.follow(self._stream, self._received, self._feed.live)
            while not await self._stream.wait_for(subscription):
                if self._stream.closing:
                    return None
                await self._stream.send(HEARTBEAT)
            try:
                snapshot = await self._feed.snapshot()
            except (NoSuchJob, ResultGone):
                return None  # deleted while it was followed: a client that reconnects gets 404 or 410
