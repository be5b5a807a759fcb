"""The live stream of one job: replay, then live, from any place; `done`, and after that 204.

Handler of /api/statuses/{id}/events; the format is wire's. Must not know how output is stored.
"""

from typing import Final

from aiohttp import web

from shellrunner.errors import BadParameter, NoSuchJob, ResultGone
from shellrunner.model import Done
from shellrunner.store import Subscription
from shellrunner.web.app_keys import STORE, job_id
from shellrunner.web.feeds.job_feed import FEEDS, Feed, Snapshot
from shellrunner.web.http import parameters
from shellrunner.web.http.streaming import STREAMS, ResponseStream, begin
from shellrunner.wire import serialize
from shellrunner.wire.sse import END, HEARTBEAT, RETRY, Cursor, event

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would collect events until its buffer is full
}


async def follow(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/{id}/events: the output and every change of the status, as server-sent events.

    Without an id all of it from the start, then live until the job is done; with one, from the next byte on.
    204 after the end tells EventSource to stop.
    """
    request.app[STREAMS].check_open()
    wanted = job_id(request)
    encoding = parameters.choice(request, "encoding", ("text", "base64"))
    feed = request.app[FEEDS].of(wanted, base64=encoding == "base64")
    with request.app[STORE].watch(wanted) as bell:
        look = await feed.look()
        cursor = await _place(request, feed, look)
        if cursor is None:
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        outlet = await begin(request, HEADERS, follows=True)
        if request.method != "HEAD":
            await _JobFollower(outlet, feed, cursor).run(bell, look)
        return await outlet.finish()


def last_event_id(request: web.Request) -> tuple[str, str]:
    """Where the client says that it was, and what says so: the header, else the parameter; nothing is empty."""
    name = "Last-Event-ID" if "Last-Event-ID" in request.headers else "last_event_id"
    return name, request.headers.get(name) or request.query.get("last_event_id", "")


async def _place(request: web.Request, feed: Feed, look: Snapshot) -> Cursor | None:
    """Where the reader goes on; None if it has had everything, `done` too."""
    name, text = last_event_id(request)
    if text == END and look.job.done:
        return None
    if text == END:
        raise BadParameter(name, f"{name} is the end's, and the job is not done")
    try:
        cursor = Cursor.parse(text or "0")
        await feed.framer(cursor, look)
    except ValueError as error:
        raise BadParameter(name, f"{name} {error}") from None
    return cursor


class _JobFollower:
    """One reader: what it has had, and where it stands."""

    def __init__(self, outlet: ResponseStream, feed: Feed, cursor: Cursor) -> None:
        self._outlet = outlet
        self._feed = feed
        self._cursor = cursor
        self._status = b""
        self._dropped = {"stdout": 0, "stderr": 0}

    async def run(self, bell: Subscription, look: Snapshot) -> None:
        """Tell everything there is, then wait for more, until the job is done or the service shuts down."""
        self._status = look.status
        await self._outlet.send(RETRY + look.status)
        while True:
            await self._tell(look)
            if isinstance(look.job.phase, Done):
                ended = serialize.ended(look.job, look.job.phase.end)
                return await self._outlet.send(event("done", ended, event_id=END))
            while not await self._outlet.hear(bell):
                if self._outlet.closing:
                    return None
                await self._outlet.send(HEARTBEAT)
            try:
                look = await self._feed.look()
            except (NoSuchJob, ResultGone):
                return None  # deleted while it was followed: whoever comes back is told so

    async def _tell(self, look: Snapshot) -> None:
        while frame := await self._feed.frame(self._cursor, look):
            await self._outlet.send(frame.events)
            self._cursor = frame.cursor
        if look.status != self._status:
            self._status = look.status
            await self._outlet.send(look.status)
        volume = look.output.volume
        for stream, dropped in (("stdout", volume.stdout_dropped), ("stderr", volume.stderr_dropped)):
            if dropped > self._dropped[stream]:
                self._dropped[stream] = dropped
                await self._outlet.send(event("dropped", {"stream": stream, "bytes": dropped}))
