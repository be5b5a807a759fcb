"""Answers that are written piece by piece, and how they end: by their reader, by our patience, at shutdown.

`Streams` belongs to the app, an `ResponseStream` to one request. Must not know what is written.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NoReturn
from weakref import WeakSet

from aiohttp import web

from shellrunner.errors import TooManyStreams
from shellrunner.store import Subscription
from shellrunner.web.app_keys import DOOR
from shellrunner.web.http.problems import Refused
from shellrunner.web.http.server_protocol import at_parting
from shellrunner.web.security.authentication import identity_of

HEARTBEAT: Final = 15.0  # seconds of silence before a sign of life, and between two looks whether a reader still may
BUFFER: Final = 1 << 15  # bytes that may wait in this process for one reader, before the next slice is held back
SLICE: Final = 1 << 15  # bytes that are written at once


class Streams:
    """All open streams, so that a shutdown ends them at once instead of waiting for them."""

    def __init__(self, most: int, heartbeat: float = HEARTBEAT) -> None:
        """`most` is how many each identity may follow at once."""
        self.most = most
        self.heartbeat = heartbeat
        self.closing = False
        self._waits: set[asyncio.Timeout] = set()
        self._outlets: WeakSet[ResponseStream] = WeakSet()  # weak, for what ends with an exception is not finished

    def close(self) -> None:
        """End every wait of every stream now, and each wait that comes later."""
        self.closing = True
        for wait in self._waits:
            end(wait)

    def opened(self, outlet: "ResponseStream") -> None:
        """One more is being written.

        Raises:
            TooManyStreams: that would be one too many that its reader follows.
        """
        if outlet.follows and self._followed_by(outlet.reader) >= self.most:
            raise TooManyStreams(self.most)
        self._outlets.add(outlet)

    def finished(self, outlet: "ResponseStream") -> None:
        """It was written to its end."""
        self._outlets.discard(outlet)

    def count(self) -> Counter[str]:
        """How many are being written to somebody just now, by the path of their route."""
        return Counter(outlet.path for outlet in self._outlets if outlet.has_reader)

    def _followed_by(self, reader: str) -> int:
        return sum(each.follows and each.reader == reader and each.has_reader for each in self._outlets)

    def check_open(self) -> None:
        """Let nothing new begin once the end has begun.

        Raises:
            Refused: it has.
        """
        if self.closing:
            raise Refused("shutting-down", "the service is shutting down", {"Connection": "close"})

    @asynccontextmanager
    async def within(self, seconds: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Give what is awaited inside so long (None: for ever), or until the shutdown.

        Raises:
            TimeoutError: it took longer.
        """
        async with asyncio.timeout(0 if self.closing else seconds) as wait:
            self._waits.add(wait)
            try:
                yield wait
            finally:
                self._waits.discard(wait)


def end(wait: asyncio.Timeout) -> None:
    """Let the time that it gives be over now."""
    if not wait.expired():  # then it is as good as over, and cannot be changed
        wait.reschedule(0)


STREAMS: Final = web.AppKey("streams", Streams)


class ResponseStream:
    """One answer that is being written. A slow reader holds back its writer, and nobody else.

    How long nothing may be taken is the connection's affair (`web.connections`).
    """

    def __init__(self, request: web.Request, response: web.StreamResponse, *, follows: bool) -> None:
        """`follows`: it has no end of its own.

        Raises:
            TooManyStreams: its reader follows as many as it may.
        """
        self.follows = follows
        self._request = request
        self._response = response
        self._identity = identity_of(request)
        self._streams = request.app[STREAMS]
        self._clock = asyncio.get_running_loop().time
        self._spoke = self._admitted = self._clock()
        self._streams.opened(self)

    @property
    def path(self) -> str:
        """The path of its route, as /api/statuses/{id}/events."""
        resource = self._request.match_info.route.resource
        return resource.canonical if resource else ""

    @property
    def reader(self) -> str:
        """The name of whoever it is written for."""
        return self._identity.name

    @property
    def has_reader(self) -> bool:
        """Whether the connection is still there; the handler hears of its end only when it writes or waits next."""
        return self._request.transport is not None

    @property
    def closing(self) -> bool:
        """Whether the service is shutting down."""
        return self._streams.closing

    async def send(self, data: bytes) -> None:
        """Write, and wait until the reader has taken nearly all of it.

        Raises:
            ConnectionError: the reader has gone, took nothing for too long or may not read on, or the service is
                shutting down.
        """
        view = memoryview(data)
        for at in range(0, len(data), SLICE):
            self._check_admitted()
            await self._unless_closing(partial(self._write, view[at : at + SLICE]))
        self._spoke = self._clock()

    async def finish(self) -> web.StreamResponse:
        """Write the end of the answer, and return it."""
        await self._unless_closing(self._response.write_eof)
        self._streams.finished(self)
        return self._response

    async def hear(self, bell: Subscription) -> bool:
        """Wait for the bell; false if a sign of life is due, or the service is shutting down, before it rings.

        Raises:
            ConnectionError: the reader has gone, or may not read on.
        """
        try:
            async with self._streams.within(
                max(0.0, self._streams.heartbeat - (self._clock() - self._spoke))
            ) as wait:
                with at_parting(self._request, partial(end, wait)):
                    await bell.wait()
        except TimeoutError:
            self._check_reader()
            self._check_admitted()
            # Even if the caller has no sign of life to give: else it is due again at once.
            self._spoke = self._clock()
            return False
        return not self._streams.closing

    async def _write(self, piece: memoryview) -> None:
        await self._response.write(piece)
        await self._request.writer.drain()  # writes alone are counted up to 64 KiB before they wait
        self._check_reader()  # waiting also ends, without a word, with the connection

    async def _unless_closing(self, step: Callable[[], Awaitable[object]]) -> None:
        try:
            async with self._streams.within(None):
                await step()
        except TimeoutError:
            self._break("the service is shutting down, and the reader takes nothing")

    def _check_reader(self) -> None:
        if not self.has_reader:
            raise ConnectionResetError("the reader has gone")

    def _check_admitted(self) -> None:
        now = self._clock()
        if now - self._admitted < self._streams.heartbeat:
            return
        if not self._request.app[DOOR].still_admits(self._identity):
            # Broken off, because a proper end would say that this was all.
            self._break("the reader may not read on: its token was revoked, or has expired")
        self._admitted = now

    def _break(self, reason: str) -> NoReturn:
        if self._request.transport is not None:
            self._request.transport.abort()
        raise ConnectionAbortedError(reason)


async def begin(
    request: web.Request, headers: Mapping[str, str], status: int = 200, *, follows: bool = False
) -> ResponseStream:
    """Send the head of an answer that will be written piece by piece; `follows`: it has no end of its own.

    Raises:
        TooManyStreams: whoever asks follows as many as it may.
        ConnectionError: the reader has gone.
    """
    response = web.StreamResponse(status=status, headers=headers)
    if request.transport is None:
        raise ConnectionResetError("the reader has gone")
    request.transport.set_write_buffer_limits(high=BUFFER)
    outlet = ResponseStream(request, response, follows=follows)
    await response.prepare(request)
    return outlet
