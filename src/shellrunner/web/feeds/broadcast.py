"""Followers at the same place of a feed, who are sent the same bytes: by one task, without waking their own.

Each feed owns one. Must not know what is sent, or sockets.

    catches up by itself ── has what the others have ──> member: only the one task writes to it
             ^                                             │
             └─────────── takes too little at once ────────┘

A task that wakes up, sets its timers and asks for the news costs more than the write that follows, so a thousand
followers of one job would cost a thousand times that for each line of output.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import perf_counter
from typing import Final, Generic, Protocol, TypeVar

from shellrunner.errors import ShellrunnerError
from shellrunner.store import Subscription
from shellrunner.wire.sse import HEARTBEAT

log = logging.getLogger("shellrunner.web")

P = TypeVar("P")

_SLICE: Final = 0.002  # seconds for which members are written to before the event loop's other work has its turn


class FollowerStream(Protocol):
    """One follower's response."""

    @property
    def closing(self) -> bool:
        """Whether the service is shutting down."""

    async def offer(self, data: bytes) -> bool:
        """Write, unless the client is behind or has gone; never wait for it. Return whether it was written."""

    async def drain(self) -> None:
        """Wait until the client has taken nearly all of what was written."""

    async def wait_for(self, subscription: Subscription) -> bool:
        """Wait for a notification; return False if a heartbeat is due first, or the service is shutting down."""

    async def send(self, data: bytes) -> None:
        """Write, and wait until the client has taken nearly all of it."""


class _Member(Generic[P]):
    """A follower, and its place. Its own task waits until it is released."""

    def __init__(self, place: P) -> None:
        self.place = place
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let its own task go on."""
        self._released.set()

    async def wait(self) -> None:
        """Wait until it is released."""
        await self._released.wait()


class Broadcast(Generic[P]):
    """Those followers of a feed who have received everything so far."""

    def __init__(self, charge: Callable[[float], None]) -> None:
        """`charge` is given the seconds for which the event loop was kept from its other work, each time."""
        self._charge = charge
        self._members: dict[FollowerStream, _Member[P]] = {}
        self._place: P | None = None  # of all members, and of the task, as long as it runs
        self._task: asyncio.Task[None] | None = None

    async def follow(
        self, stream: FollowerStream, place: P, news: Callable[[P], AsyncGenerator[tuple[bytes, P], None]]
    ) -> P:
        """Have a follower at this place sent the news, as long as it takes them at once; return its place after that.

        It may be sent nothing: if other followers are at another place, if it is to look for news by itself, which
        it has to do after every call, or if the service is shutting down.

        `news` begins at a place, and yields bytes and the place after them; it ends when followers are to look by
        themselves.

        Raises:
            ConnectionError: the client has disconnected, or the service is shutting down and it does not read.
        """
        if self._task is not None and place != self._place:
            return place
        member = self._members[stream] = _Member(place)
        if self._task is None:
            self._place = place
            self._task = asyncio.create_task(self._run(news(place)), name="broadcast")
        try:
            while not await stream.wait_for(member) and not stream.closing:
                await stream.send(HEARTBEAT)
        finally:
            self._members.pop(stream, None)
            if not self._members:
                self._stop()
        await stream.drain()
        return member.place

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, news: AsyncGenerator[tuple[bytes, P], None]) -> None:
        try:
            async with aclosing(news):
                async for data, place in news:
                    self._charge(await self._send(data, place))
        except ShellrunnerError:
            pass  # each of the members meets it by itself, as it looks for news
        except Exception:
            log.exception("could not send news to %d followers at once", len(self._members))
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                for stream in list(self._members):
                    self._members.pop(stream).release()

    async def _send(self, data: bytes, place: P) -> float:
        """Write to each member; return how long the event loop was kept from its other work."""
        self._place = place  # from now on, so that who joins while others are written to needs nothing of this
        took, began = 0.0, perf_counter()
        for stream, member in list(self._members.items()):
            if stream not in self._members or member.place == place:
                continue  # it left, or joined, while others were written to
            if await stream.offer(data):
                member.place = place
            else:
                self._members.pop(stream).release()
            if (now := perf_counter()) - began > _SLICE:
                took += now - began
                await asyncio.sleep(0)
                began = perf_counter()
        return took + perf_counter() - began
