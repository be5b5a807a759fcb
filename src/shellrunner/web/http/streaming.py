"""Responses that are written piece by piece, and what ends them: the client, a timeout, the shutdown.

`Streams` belongs to the app, a `ResponseStream` to one request. Must not know what is written.
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
from shellrunner.web.app_keys import identity_of
from shellrunner.web.http.aiohttp_internals import write_now
from shellrunner.web.http.problems import HttpProblem
from shellrunner.web.http.server_protocol import connection_identity, doubtful_since, on_disconnect

HEARTBEAT_INTERVAL: Final = 15.0  # seconds between two writes
WRITE_BUFFER_LIMIT: Final = 1 << 15  # bytes that may wait in this process for one client
READ_SIZE: Final = 1 << 18  # bytes of stored output that are read at once
CHUNK_SIZE: Final = 1 << 16  # bytes that are written at once


class Streams:
    """All open streams, so that a shutdown can end them at once instead of waiting for them."""

    def __init__(self, max_per_identity: int, heartbeat: float = HEARTBEAT_INTERVAL) -> None:
        """`max_per_identity` is the number of streams without an end that one identity may follow at once."""
        self.max_per_identity = max_per_identity
        self.heartbeat = heartbeat
        self.closing = False
        self._timeouts: set[asyncio.Timeout] = set()
        self._open: WeakSet[ResponseStream] = WeakSet()  # weak: a stream that fails is not discarded

    def close(self) -> None:
        """Expire every timeout of every stream, now and from now on."""
        self.closing = True
        for timeout in self._timeouts:
            expire(timeout)

    def add(self, stream: "ResponseStream") -> None:
        """Register a stream.

        Raises:
            TooManyStreams: its client follows as many as it may already.
        """
        if stream.follows and self._followed_by(stream.reader) >= self.max_per_identity:
            self._evict_doubtful(stream.reader)
        self._open.add(stream)

    def _evict_doubtful(self, reader: str) -> None:
        """Make room by the stream whose client may have gone for the longest time, as when a page is reloaded."""
        own = [each for each in self._open if each.reader == reader]
        doubtful = {each: since for each in own if (since := each.doubtful_since) is not None}
        if not doubtful:
            raise TooManyStreams(self.max_per_identity)
        oldest = min(doubtful, key=lambda each: doubtful[each])
        oldest.abort()
        self._open.discard(oldest)

    def discard(self, stream: "ResponseStream") -> None:
        """Unregister a stream that was written to its end."""
        self._open.discard(stream)

    def count(self) -> Counter[str]:
        """Count the open streams by the path of their route."""
        return Counter(stream.path for stream in self._open if stream.is_connected)

    def _followed_by(self, reader: str) -> int:
        return sum(each.follows and each.reader == reader and each.is_connected for each in self._open)

    def raise_if_closing(self) -> None:
        """Reject new work once the shutdown has begun.

        Raises:
            HttpProblem: it has.
        """
        if self.closing:
            raise HttpProblem("shutting-down", "the service is shutting down", {"Connection": "close"})

    @asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Limit the block to so many seconds (None: no limit), and end it at the shutdown.

        Raises:
            TimeoutError: the time is over, or the service is shutting down.
        """
        async with asyncio.timeout(0 if self.closing else seconds) as timeout:
            self._timeouts.add(timeout)
            try:
                yield timeout
            finally:
                self._timeouts.discard(timeout)


def expire(timeout: asyncio.Timeout) -> None:
    """Let a timeout expire now."""
    shorten(timeout, 0)


def shorten(timeout: asyncio.Timeout, seconds: float) -> None:
    """Let a timeout expire after so many seconds from now, unless it does so earlier."""
    end = asyncio.get_running_loop().time() + seconds
    if not timeout.expired() and ((when := timeout.when()) is None or end < when):  # an expired one cannot be changed
        timeout.reschedule(end)


STREAMS: Final = web.AppKey("streams", Streams)


class ResponseStream:
    """A streaming response with backpressure per client: a slow one delays its own writer only.

    A client that takes nothing at all is dropped by `connections`.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse, *, follows: bool) -> None:
        """Register the stream; `follows` means that it has no end of its own.

        Raises:
            TooManyStreams: its client follows as many as it may already.
        """
        self.follows = follows
        self._request = request
        self._response = response
        self._reader = identity_of(request).name
        self._streams = request.app[STREAMS]
        self._clock = asyncio.get_running_loop().time
        self._sent_at = self._heartbeat_at = self._clock()
        self._streams.add(self)
        connection_identity(request).on_revoked = self.abort  # a regular end would mean that it is complete

    @property
    def path(self) -> str:
        """The path of its route, such as /api/statuses/{id}/events."""
        resource = self._request.match_info.route.resource
        return resource.canonical if resource else ""

    @property
    def reader(self) -> str:
        """The name of its client's identity."""
        return self._reader

    @property
    def is_connected(self) -> bool:
        """Whether the client is still connected; the handler notices only at its next write or wait."""
        return self._request.transport is not None

    @property
    def closing(self) -> bool:
        """Whether the service is shutting down."""
        return self._streams.closing

    @property
    def doubtful_since(self) -> float | None:
        """Since when the client may have gone, if the stream is one that has no end of its own."""
        return doubtful_since(self._request) if self.follows and self.is_connected else None

    def abort(self) -> None:
        """Cut the connection; the handler notices at its next write or wait."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def send(self, data: bytes) -> None:
        """Write, and wait until the client has taken nearly all of it.

        Raises:
            ConnectionError: the client has disconnected, took nothing for too long or lost its permission, or the
                service is shutting down.
        """
        view = memoryview(data)
        for at in range(0, len(data), CHUNK_SIZE):
            await self._write(view[at : at + CHUNK_SIZE])
        self._sent_at = self._heartbeat_at = self._clock()

    async def offer(self, data: bytes) -> bool:
        """Write, unless the client is behind or has gone; never wait for it. Return whether it was written."""
        if self._request.protocol.writing_paused or not self.is_connected:
            return False
        try:
            await write_now(self._request, data)
        except ConnectionError:
            return False
        self._sent_at = self._heartbeat_at = self._clock()
        return True

    async def drain(self) -> None:
        """Wait until the client has taken nearly all of what was written.

        Raises:
            ConnectionError: see `send`.
        """
        if self._request.protocol.writing_paused:  # most often it is not: the kernel took all
            await self._unless_closing(self._request.writer.drain)
        self._check_connected()  # the writer's `drain` also returns, silently, when the connection is lost

    async def finish(self) -> web.StreamResponse:
        """Write the end of the response, and return it."""
        await self._unless_closing(self._response.write_eof)
        self._streams.discard(self)
        connection_identity(self._request).on_revoked = None
        return self._response

    async def wait_for(self, subscription: Subscription) -> bool:
        """Wait for a notification; return False if a heartbeat is due first, or the service is shutting down.

        Raises:
            ConnectionError: the client has disconnected, seems to have, or lost its permission.
        """
        while not await self._wait_until_heartbeat(subscription):
            self._check_connected()
            if self._streams.closing or self._is_heartbeat_due():
                # Even if the caller sends no heartbeat: otherwise the next one would be due at once.
                self._heartbeat_at = self._clock()
                self._check_silence()
                return False
        return not self._streams.closing

    async def _wait_until_heartbeat(self, subscription: Subscription) -> bool:
        remaining = max(0.0, self._streams.heartbeat - (self._clock() - self._heartbeat_at))
        try:
            async with self._streams.timeout(remaining) as timeout:
                with on_disconnect(self._request, partial(expire, timeout), self._probe(timeout)):
                    await subscription.wait()
        except TimeoutError:
            return False
        return True

    def _is_heartbeat_due(self) -> bool:
        """Return whether a heartbeat is due still: something may have been offered since the timeout was set."""
        since = self.doubtful_since
        is_unprobed = since is not None and self._heartbeat_at < since
        return is_unprobed or self._clock() - self._heartbeat_at >= self._streams.heartbeat

    async def _write(self, piece: memoryview) -> None:
        await write_now(self._request, piece)
        await self.drain()

    async def _unless_closing(self, step: Callable[[], Awaitable[object]]) -> None:
        try:
            async with self._streams.timeout(None):
                await step()
        except TimeoutError:
            self._abort("the service is shutting down, and the client does not read")

    def _probe(self, timeout: asyncio.Timeout) -> Callable[[], None] | None:
        """Return what makes a heartbeat due as soon as the client may have gone: one that has gone resets it."""
        is_probed = (since := self.doubtful_since) is not None and self._heartbeat_at >= since
        return None if is_probed else partial(expire, timeout)

    def _check_silence(self) -> None:
        """End a stream that sends no heartbeats to a client that may have gone: nothing would show that it has."""
        since = self.doubtful_since
        # Seen at the second heartbeat that was due, each of which may be a moment early by the clock.
        if since is not None and self._clock() - max(since, self._sent_at) > 1.5 * self._streams.heartbeat:
            self._abort("the client closed its sending side, and may have gone")

    def _check_connected(self) -> None:
        # One that was aborted is connected until the event loop's next turn.
        if self._request.transport is None or self._request.transport.is_closing():
            raise ConnectionResetError("the client has disconnected")

    def _abort(self, reason: str) -> NoReturn:
        self.abort()
        raise ConnectionAbortedError(reason)


async def start_stream(
    request: web.Request, headers: Mapping[str, str], status: int = 200, *, follows: bool = False
) -> ResponseStream:
    """Send the head of a response whose body is written piece by piece; `follows`: it has no end of its own.

    Raises:
        TooManyStreams: the client follows as many as it may already.
        TokenNeeded: its token was revoked, or has expired, since the request was accepted.
        ConnectionError: the client has disconnected.
    """
    if request.method in ("GET", "HEAD"):  # what another request has done must be answered as it is
        connection_identity(request).raise_if_revoked()
    response = web.StreamResponse(status=status, headers=headers)
    if request.transport is None:
        raise ConnectionResetError("the client has disconnected")
    request.transport.set_write_buffer_limits(high=WRITE_BUFFER_LIMIT)
    stream = ResponseStream(request, response, follows=follows)
    await response.prepare(request)
    return stream
