"""The live stream of all statuses: from now on, or from where its reader was, or `reset` if that is too far back.

Handler of /api/statuses/events. Must not know where changes are remembered.
"""

from aiohttp import web

from shellrunner.store import Subscription
from shellrunner.web.app_keys import STORE
from shellrunner.web.feeds.status_feed import BOARD, Board
from shellrunner.web.handlers.job_events import HEADERS, last_event_id
from shellrunner.web.http.streaming import STREAMS, ResponseStream, begin
from shellrunner.wire.sse import HEARTBEAT, RETRY, event


async def follow(request: web.Request) -> web.StreamResponse:
    """GET /api/statuses/events: every change of any status, as server-sent events, from now on or from an id."""
    request.app[STREAMS].check_open()
    with request.app[STORE].watch_changes() as bell:
        # Before the head is sent: what the client reads once it has that is nothing older.
        follower = _StatusFollower(request.app[BOARD], last_event_id(request)[1])
        outlet = await begin(request, HEADERS, follows=True)
        if request.method != "HEAD":
            await follower.run(outlet, bell)
        return await outlet.finish()


class _StatusFollower:
    """One reader, who was told every change up to `last`."""

    def __init__(self, board: Board, event_id: str) -> None:
        place = board.place(event_id) if event_id else board.last
        self._board = board
        self._last = board.last if place is None else place
        # Told even if nothing has changed: whoever is cut before anything does can resume too. An id without
        # data is no event (HTML standard, 9.2.6), but is kept.
        begun = f"id: {board.event_id(self._last)}\n\n".encode()
        self._greeting = RETRY + (self._reset() if place is None else begun)

    async def run(self, outlet: ResponseStream, bell: Subscription) -> None:
        """Tell what changed since, then what changes, until the service shuts down."""
        await outlet.send(self._greeting)
        while True:
            await self._tell(outlet)
            while not await outlet.hear(bell):
                if outlet.closing:
                    return
                await outlet.send(HEARTBEAT)

    async def _tell(self, outlet: ResponseStream) -> None:
        edge = await self._board.look()
        while self._last < edge:
            frame = await self._board.frame(self._last, edge)
            self._last = edge if frame is None else frame.last
            await outlet.send(self._reset() if frame is None else frame.events)

    def _reset(self) -> bytes:
        return event("reset", {}, event_id=self._board.event_id(self._last))
