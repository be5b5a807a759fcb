"""Answers that are written piece by piece, and how they end: by their reader, by our patience, at shutdown.

`Streams` belongs to the app, an `Outlet` to one request. Must not know what is written.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from weakref import WeakSet

from aiohttp import web

from shellrunner.store import Bell
from shellrunner.web.guard import HARDENED
from shellrunner.web.problems import Refused

HEARTBEAT: Final = 15.0  # seconds of silence before a sign of life
PATIENCE: Final = 60.0  # seconds in which a reader must take something
BUFFER: Final = 1 << 15  # bytes that may wait in this process for one reader, before the next slice is held back
SLICE: Final = 1 << 15  # bytes that are written at once


class Streams:
    """All open streams, so that a shutdown ends them at once instead of waiting for them."""

    def __init__(self, heartbeat: float = HEARTBEAT, patience: float = PATIENCE) -> None:
        self.heartbeat = heartbeat
        self.patience = patience
        self.closing = False
        self._waits: set[asyncio.Timeout] = set()
        self._outlets: WeakSet[Outlet] = WeakSet()  # weak, for what ends with an exception is not finished

    def close(self) -> None:
        """End every wait of every stream now, and each wait that comes later."""
        self.closing = True
        for wait in self._waits:
            end(wait)

    def opened(self, outlet: "Outlet") -> None:
        """One more is being written."""
        self._outlets.add(outlet)

    def finished(self, outlet: "Outlet") -> None:
        """It was written to its end."""
        self._outlets.discard(outlet)

    def count(self) -> Counter[str]:
        """How many are being written to somebody just now, by the path of their route."""
        return Counter(outlet.path for outlet in self._outlets if outlet.has_reader)

    def check_open(self) -> None:
        """Let nothing new begin once the end has begun.

        Raises:
            Refused: it has.
        """
        if self.closing:
            raise Refused("shutting-down", "the service is shutting down", {"Connection": "close"})

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        """Give what is awaited inside so long, or until the shutdown.

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


class Outlet:
    """One answer that is being written. A slow reader holds back its writer, and nobody else."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._streams = request.app[STREAMS]
        self._streams.opened(self)
        self._spoke = asyncio.get_running_loop().time()

    @property
    def path(self) -> str:
        """The path of its route, as /api/statuses/{id}/events."""
        resource = self._request.match_info.route.resource
        return resource.canonical if resource else ""

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
            ConnectionError: the reader has gone, or took nothing for too long, or the service is shutting down.
        """
        view = memoryview(data)
        for at in range(0, len(data), SLICE):
            piece = view[at : at + SLICE]
            await self._patiently(partial(self._write, piece), len(piece))
        self._spoke = asyncio.get_running_loop().time()

    async def finish(self) -> web.StreamResponse:
        """Write the end of the answer, and return it."""
        await self._patiently(self._response.write_eof, 0)
        self._streams.finished(self)
        return self._response

    async def hear(self, bell: Bell) -> bool:
        """Wait for the bell; false if a sign of life is due, or the service is shutting down, before it rings.

        Raises:
            ConnectionError: the reader has gone.
        """
        clock = asyncio.get_running_loop().time
        try:
            async with self._streams.within(max(0.0, self._streams.heartbeat - (clock() - self._spoke))):
                await bell.wait()
        except TimeoutError:
            self._waiting()
            self._spoke = clock()  # even if the caller has no sign of life to give: else it is due again at once
            return False
        return not self._streams.closing

    async def _write(self, piece: memoryview) -> None:
        await self._response.write(piece)
        await self._request.writer.drain()  # writes alone are counted up to 64 KiB before they wait

    async def _patiently(self, step: Callable[[], Awaitable[object]], size: int) -> None:
        writer = self._request.writer
        waiting = self._waiting() + size
        while True:
            with contextlib.suppress(TimeoutError):
                async with self._streams.within(self._streams.patience):
                    await step()
                    return
            before, waiting = waiting, self._waiting()
            if self._streams.closing or waiting >= before:
                self._abort()
            step = writer.drain

    def _waiting(self) -> int:
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the reader has gone")
        return transport.get_write_buffer_size()

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
        raise ConnectionAbortedError("the reader took nothing for too long")


async def begin(request: web.Request, headers: Mapping[str, str], status: int = 200) -> Outlet:
    """Send the head of an answer that will be written piece by piece."""
    response = web.StreamResponse(status=status, headers={**HARDENED, **headers})
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the reader has gone")
    transport.set_write_buffer_limits(high=BUFFER)
    patience = int(request.app[STREAMS].patience * 1000)
    if (connection := transport.get_extra_info("socket")) is not None and connection.family != socket.AF_UNIX:
        # tcp(7): also ends a connection whose other host has vanished without a word.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
    await response.prepare(request)
    return Outlet(request, response)
