"""The live stream of all statuses: from now on or from an event id, or `reset` if that is too old.

Handler of /api/statuses/events. Must not know where changes are remembered.
"""

from time import perf_counter

from aiohttp import web

from shellrunner.store import Subscription
from shellrunner.web.app_keys import STORE
from shellrunner.web.feeds.status_feed import STATUS_FEED, StatusFeed
from shellrunner.web.handlers.job_events import HEADERS, last_event_id
from shellrunner.web.http.streaming import STREAMS, ResponseStream, start_stream
from shellrunner.wire.sse import HEARTBEAT, RETRY, event


async def follow(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/events: stream every change of any status as server-sent events.

    Without an event id the stream begins now: connect first, then read the list, and no change is missed. With one it
    begins with every job that changed since, once, as it now is; an id that is unknown or too old is answered with
    `reset`, after which the client reads the list again.
    """
    request.app[STREAMS].raise_if_closing()
    with request.app[STORE].watch_changes() as subscription:
        # Before the head is sent: a list that the client reads once it has the head is not older than this.
        follower = _StatusFollower(request.app[STATUS_FEED], last_event_id(request)[1])
        stream = await start_stream(request, HEADERS, follows=True)
        if request.method != "HEAD":
            await follower.run(stream, subscription)
        return await stream.finish()


class _StatusFollower:
    """One client, which received every change up to `_last`."""

    def __init__(self, feed: StatusFeed, event_id: str) -> None:
        known = feed.parse_event_id(event_id) if event_id else feed.head
        self._feed = feed
        self._last = feed.head if known is None else known
        # Sent even if nothing has changed, so that a client can resume that is cut before the first change. An id
        # without data is not an event (HTML standard, 9.2.6), but EventSource remembers it.
        begun = f"id: {feed.event_id(self._last)}\n\n".encode()
        self._greeting = RETRY + (self._reset(self._last) if known is None else begun)

    async def run(self, stream: ResponseStream, subscription: Subscription) -> None:
        """Send what has changed since, then every change, until the service shuts down."""
        await stream.send(self._greeting)
        while True:
            await self._send_changes(stream)
            self._last = await self._feed.broadcast.follow(stream, self._last, self._feed.live)
            while not await stream.wait_for(subscription):
                if stream.closing:
                    return
                await stream.send(HEARTBEAT)

    async def _send_changes(self, stream: ResponseStream) -> None:
        head = await self._feed.latest()
        while self._last < head:
            frame = await self._feed.frame(self._last, head)
            began = perf_counter()
            if await stream.offer(self._reset(head) if frame is None else frame.events):
                self._last = head if frame is None else frame.last
            self._feed.shared_read.charge(perf_counter() - began)
            await stream.drain()

    def _reset(self, head: int) -> bytes:
        return event("reset", {}, event_id=self._feed.event_id(head))
